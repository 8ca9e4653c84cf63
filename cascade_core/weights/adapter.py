"""What a LoRA's keys do not tell: its alpha, as PEFT and diffusers write it down."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cascade_core.config import LoraConfig, Positive, make
from cascade_core.errors import InvalidConfig, WeightsError
from cascade_core.weights.checkpoint import read_metadata
from cascade_core.weights.locate import ADAPTER_MODEL, adapter_config
from cascade_core.weights.shards import reading

METADATA: Final = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's configuration inside a safetensors file, as JSON."""

MAX_PATTERNS: Final = 4096
"""A file may have one for each of its layers."""
MAX_PATTERN_CHARACTERS: Final = 1024

T = TypeVar("T")
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _check_pattern(pattern: str) -> str:
    try:
        _matcher(pattern)
    except Exception:  # pydantic's engine has an error of its own, in a package that is not ours to name
        raise ValueError(
            "not a regular expression, or one with look-around or back-references, which are not supported"
        ) from None
    return pattern


Pattern = Annotated[str, Field(max_length=MAX_PATTERN_CHARACTERS), AfterValidator(_check_pattern)]


@dataclass(frozen=True)
class Adapter:
    """The part of PEFT's configuration that a merge needs. Other values than these cannot be merged."""

    r: Positive | None = None
    lora_alpha: Finite | None = None
    """None: each pair's rank."""
    rank_pattern: Mapping[Pattern, Positive] = Field(default_factory=dict, max_length=MAX_PATTERNS)
    """For layers whose names end with a match of the regular expression; `alpha_pattern` likewise."""
    alpha_pattern: Mapping[Pattern, Finite] = Field(default_factory=dict, max_length=MAX_PATTERNS)
    use_rslora: bool = False
    use_dora: Literal[False] = False
    peft_type: Literal["LORA"] = "LORA"
    init_lora_weights: Literal[True, False, "gaussian", "eva", "orthogonal"] = True
    """PEFT's others change the base weights, too."""

    def rank(self, layer: str) -> int | None:
        return _of_layer(layer, self.rank_pattern, self.r)

    def scale(self, layer: str, rank: int) -> float:
        alpha = _of_layer(layer, self.alpha_pattern, self.lora_alpha)
        return 1.0 if alpha is None else alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapter(lora: Path, config: LoraConfig) -> Adapter:
    """As the file tells, else adapter_config.json beside it, else the card. Raises WeightsError."""
    with reading(lora):
        text = read_metadata(lora).get(METADATA)
    if text:
        return _parse(text, lora)
    beside = adapter_config(lora)
    if beside.is_file() and not _is_of_another(lora):
        with reading(beside):
            return _parse(beside.read_bytes(), beside)
    return Adapter(lora_alpha=config.alpha)


def _is_of_another(lora: Path) -> bool:
    """Whether what lies beside the file is about the adapter_model that PEFT saved there."""
    return lora.is_file() and lora.stem != ADAPTER_MODEL and any(lora.parent.glob(f"{ADAPTER_MODEL}.*"))


def _parse(text: str | bytes, path: Path) -> Adapter:
    try:
        told = json.loads(text).items()
        return make(
            Adapter, {key.removeprefix("transformer."): value for key, value in told if value is not None}
        )
    except InvalidConfig as error:
        raise WeightsError(f"{path}: this LoRA cannot be merged: {error}") from None
    except (ValueError, AttributeError, RecursionError):
        raise WeightsError(f"{path}: the LoRA's configuration is not a JSON object") from None


def _of_layer(layer: str, patterns: Mapping[str, T], otherwise: T | None) -> T | None:
    layer = layer.removeprefix("base_model.model.").removeprefix("transformer.")
    return next((value for pattern, value in patterns.items() if _matches(pattern, layer)), otherwise)


def _matches(pattern: str, layer: str) -> bool:
    try:
        _matcher(pattern).validate_python(layer)
    except ValidationError:
        return False
    return True


@lru_cache(MAX_PATTERNS)
def _matcher(pattern: str) -> TypeAdapter[str]:
    """As PEFT reads a pattern, but in time that grows with the text alone (pydantic takes Rust's engine):
    Python's own would let a file hold the start up for ever. Raises SchemaError."""
    return TypeAdapter(Annotated[str, StringConstraints(pattern=rf"^(.*\.)?({pattern})$")])
