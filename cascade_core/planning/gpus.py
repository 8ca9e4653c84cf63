"""What the data sheets say of a GPU: `gpus.toml`."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT, make
from cascade_core.errors import InvalidConfig

Above = Annotated[float, Field(gt=0)]
Architecture = Literal["hopper", "blackwell", "ada"]


@dataclass(frozen=True, config=STRICT)
class DataSheet:
    """Of one kind of GPU."""

    name: str
    """What `--gpu` takes."""
    title: str
    source: str
    """Title of the data sheet."""
    architecture: Architecture
    bf16_tflop_s: Above
    """Dense."""
    fp8_tflop_s: Above
    """Dense."""
    memory_gb: Above
    memory_gb_s: Above
    link: str
    """What connects it to the other ranks' GPUs."""
    link_gb_s: Above
    """What it receives over that."""


@cache
def load_gpus() -> dict[str, DataSheet]:
    """All that are known, by name."""
    table = tomllib.loads((files(__package__) / "gpus.toml").read_text())
    return {name: make(DataSheet, {"name": name} | values) for name, values in table.items()}


def find_gpu(name: str) -> DataSheet:
    """Raises InvalidConfig that lists the known ones."""
    gpus = load_gpus()
    if name not in gpus:
        raise InvalidConfig(f"gpu: {name!r} is unknown; known: {', '.join(gpus)}")
    return gpus[name]
