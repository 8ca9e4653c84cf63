"""`--lora` and `--lora-list`: LoRAs from files, or by their names in a list."""

import argparse
import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from cascade_core.config import MAX_LORAS, STRICT, ListedLora, make
from cascade_core.errors import InvalidConfig
from cascade_core.loras import Choices, LoraChoice


@dataclass(frozen=True)
class Asked:
    """What one `--lora` says."""

    place: str
    """A name in the list, a file, or a folder."""
    scale: float


@checked_dataclass(frozen=True, config=STRICT)
class LoraList:
    """A list as the stage's settings have it."""

    loras: tuple[ListedLora, ...] = Field(max_length=MAX_LORAS)


def add_loras(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora", type=parse_asked, action="append", default=[], metavar="LORA=SCALE",
        help="a LoRA beside the weights: a file, or a name of --lora-list, such as ink=0.8; at most three",
    )  # fmt: skip
    parser.add_argument(
        "--lora-list", type=Path, metavar="FILE", help="TOML with [[loras]]: name, path, licence, alpha"
    )


def parse_asked(text: str) -> Asked:
    place, equals, number = text.rpartition("=")
    try:
        return Asked(place, float(number)) if equals else Asked(text, 1.0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LORA or LORA=SCALE, such as ink=0.8") from None


def listed_and_chosen(arguments: argparse.Namespace) -> tuple[tuple[ListedLora, ...], Choices]:
    """What the engine is to list, and what the session uses. Raises InvalidConfig."""
    known = {lora.name: lora for lora in read_list(arguments.lora_list)} if arguments.lora_list else {}
    used = [(known.get(asked.place) or of_file(asked.place, list(known)), asked) for asked in arguments.lora]
    if strange := next((asked for _, asked in used if math.isnan(asked.scale)), None):
        raise InvalidConfig(f"--lora: the scale of {strange.place} is not a number")
    choices = tuple(LoraChoice(lora.name, asked.scale) for lora, asked in used)
    return tuple({lora.name: lora for lora, _ in used}.values()), choices


def read_list(path: Path) -> tuple[ListedLora, ...]:
    """Raises InvalidConfig that names the file and the field."""
    try:
        return make(LoraList, tomllib.loads(path.read_text())).loras
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, InvalidConfig) as error:
        raise InvalidConfig(f"--lora-list {path}: {error}") from None


def of_file(place: str, known: list[str]) -> ListedLora:
    """Under a name that is made of the file's."""
    path = Path(place).expanduser()
    if not path.exists():
        names = f", nor one of {', '.join(known)}" if known else ""
        raise InvalidConfig(f"--lora: {place} is no file or folder{names}")
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:64]
    return ListedLora(name=name or "lora", path=str(path))
