"""Which LoRAs a session uses, and how strongly: what may be asked of those that are listed. Imports no torch.

A listed LoRA is kept beside the weights and never merged, so that sessions of one engine may differ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cascade_core.config import ListedLora
from cascade_core.errors import InvalidRequest

MAX_CHOSEN: Final = 3
"""LoRAs that a prompt may have at once."""
MAX_SCALE: Final = 4.0


@dataclass(frozen=True)
class LoraChoice:
    """A LoRA that is used."""

    name: str
    scale: float = 1.0
    """Multiplies what it adds, -4..4."""


Choices = tuple[LoraChoice, ...]
Choice = tuple[tuple[int, float], ...]
"""As ranks know them: places in the list, with their scales."""


def check_choices(field: str, choices: Sequence[LoraChoice], listed: Sequence[ListedLora]) -> None:
    """Raise InvalidRequest, whose text begins with the field, where they cannot be used together."""
    names = [choice.name for choice in choices]
    known = [lora.name for lora in listed]
    if len(names) > MAX_CHOSEN:
        raise InvalidRequest(f"{field}: {len(names)} are more than {MAX_CHOSEN}")
    for choice in choices:
        if choice.name not in known:
            offered = f"is not one of {', '.join(known)}" if known else "is not here: no LoRA is listed"
            raise InvalidRequest(f"{field}: {choice.name!r} {offered}")
        if names.count(choice.name) > 1:
            raise InvalidRequest(f"{field}: {choice.name!r} comes twice")
        if not (math.isfinite(choice.scale) and abs(choice.scale) <= MAX_SCALE):
            allowed = f"{-MAX_SCALE:g}..{MAX_SCALE:g}"
            raise InvalidRequest(f"{field}: the scale {choice.scale:g} of {choice.name} is not in {allowed}")


def numbered(choices: Sequence[LoraChoice], listed: Sequence[ListedLora]) -> Choice:
    """Raises KeyError for one that is not listed."""
    places = {lora.name: place for place, lora in enumerate(listed)}
    return tuple((places[choice.name], choice.scale) for choice in choices)
