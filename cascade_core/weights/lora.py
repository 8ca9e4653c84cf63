"""LoRA files as people have them (kohya, Kijai, diffusers, PEFT, LongLive): read, checked, merged."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from cascade_core.config import LoraConfig
from cascade_core.errors import WeightsError
from cascade_core.weights.adapter import Adapter, read_adapter
from cascade_core.weights.checkpoint import is_usable, read_tensors
from cascade_core.weights.layouts import find_parameters
from cascade_core.weights.scaled import ScaledTensor
from cascade_core.weights.shards import reading

TOP_KEYS: Final = ("generator_lora", "state_dict")
"""Where a `.pt` file keeps the tensors, after the card's own key."""

KEY: Final = re.compile(r"(.+)\.(?:lora_(A|B|down|up)(?:\.[^.]+)?\.weight|(alpha|diff(?:_[bm])?|[wb]_norm))")
MEANINGS: Final = {
    "A": ("weight", "A"),
    "down": ("weight", "A"),
    "B": ("weight", "B"),
    "up": ("weight", "B"),
    "alpha": ("weight", "alpha"),
    "diff": ("weight", "diff"),
    "diff_b": ("bias", "diff"),
    "diff_m": ("modulation", "diff"),
    "w_norm": ("weight", "diff"),
    "b_norm": ("bias", "diff"),
}
"""Which parameter of a layer a key is for, and its role there."""

MAX_KEY_CHARACTERS: Final = 1024
"""Some expressions here take time that grows with its square."""

REFUSED: Final = {
    r"\.(dora_scale|lora_magnitude_vector)\b": "DoRA",
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.oft_": "OFT",
    r"\.lora_mid\.": "a core between the halves of a LoRA",
    r"\.lora_(B|up)\.(.+\.)?bias$": "a LoRA with biases",
}


@dataclass(frozen=True)
class Update:
    """What one parameter gets: `scale * B @ A`, or, where there is no A, `scale * B`."""

    name: str
    scale: float
    b: Tensor
    a: Tensor | None = None

    def delta(self) -> Tensor:
        b = self.b.float()
        return self.scale * (b if self.a is None else b.flatten(1) @ self.a.float().flatten(1))


@dataclass(frozen=True)
class Entry:
    """One key of a file."""

    key: str
    layer: str
    """As the file calls it."""
    parameter: str
    """`weight`, `bias` or `modulation`."""
    role: str
    """`A`, `B`, `alpha` or `diff`."""
    tensor: Tensor

    def __str__(self) -> str:
        return f"{self.key} {list(self.tensor.shape)}"


def read_lora(path: Path, config: LoraConfig, state: Mapping[str, Tensor]) -> list[Update]:
    """What a file adds to the transformer `state`, which has our names.

    Raises WeightsError that names the file and the key, for a form that is not supported, a parameter that is
    not there, half a pair, a shape or rank that does not fit, or numbers that are not usable and finite.
    """
    with reading(path):
        tensors = read_tensors(path, ((config.key,) if config.key else ()) + TOP_KEYS)
        entries = [_entry(key, tensor) for key, tensor in tensors.items()]
    adapter = read_adapter(path, config)
    with reading(path):
        return [
            update
            for name, roles in _by_parameter(entries, state).items()
            if is_usable(state[name])  # else `load_state` names it
            for update in _updates(name, roles, state[name], adapter, config)
        ]


def merge(state: Mapping[str, Tensor], updates: Iterable[Update]) -> dict[str, Tensor]:
    """All updates added in float32, then cast to each weight's own dtype (bfloat16 where that has 8 bits).

    Raises WeightsError for a weight that they make NaN or infinite.
    """
    by_name: dict[str, list[Update]] = {}
    for update in updates:
        by_name.setdefault(update.name, []).append(update)
    merged = dict(state)
    for name, several in by_name.items():
        weight = state[name]
        total = sum((update.delta().view_as(weight) for update in several), weight.float())
        has_8_bits = isinstance(weight, ScaledTensor) or weight.dtype.itemsize == 1
        merged[name] = total.to(torch.bfloat16 if has_8_bits else weight.dtype)
        if not is_finite(merged[name]) and is_finite(weight):
            raise WeightsError(
                f"{name} holds NaN or infinity with its LoRA files: lower their strength or alpha in the card"
            )
    return merged


def is_finite(tensor: Tensor) -> bool:
    return bool(tensor.float().isfinite().all())


def _entry(key: str, tensor: Tensor) -> Entry:
    if len(key) > MAX_KEY_CHARACTERS or not key.isprintable():
        raise WeightsError(f"{key[:80]!r} is no key of a LoRA")
    for form, what in REFUSED.items():
        if re.search(form, key):
            raise WeightsError(f"{key}: {what} is not supported")
    match = KEY.fullmatch(key)
    if match is None:
        raise WeightsError(f"{key} is no key of a LoRA")
    parameter, role = MEANINGS[match[2] or match[3]]
    if role == "alpha":
        usable = tensor.numel() == 1 and not tensor.is_meta and not tensor.is_complex()
    else:
        usable = is_usable(tensor)
    if not usable:
        raise WeightsError(f"{key}: not {'one number' if role == 'alpha' else 'dense floating point'}")
    if not is_finite(tensor):
        raise WeightsError(f"{key} holds NaN or infinity")
    return Entry(key, match[1], parameter, role, tensor)


def _by_parameter(entries: list[Entry], state: Mapping[str, Tensor]) -> dict[str, dict[str, Entry]]:
    """Our parameter -> the file's entries for it, by role."""
    if not entries:
        raise WeightsError("has no key of a LoRA")
    names = find_parameters([f"{entry.layer}.{entry.parameter}" for entry in entries], state)
    found: dict[str, dict[str, Entry]] = {}
    for entry, name in zip(entries, names, strict=True):
        if name is None:
            raise WeightsError(
                f"{entry.key}: this model has no such {entry.parameter}; the LoRA is for another one"
            )
        other = found.setdefault(name, {}).setdefault(entry.role, entry)
        if other is not entry:
            raise WeightsError(f"{other.key} and {entry.key} are both for {name}")
    return found


def _updates(
    name: str, roles: Mapping[str, Entry], weight: Tensor, adapter: Adapter, config: LoraConfig
) -> Iterator[Update]:
    diff, a, b = (roles.get(role) for role in ("diff", "A", "B"))
    if diff:
        if diff.tensor.shape != weight.shape:
            raise WeightsError(f"{diff} does not fit {name} {list(weight.shape)}")
        yield Update(name, config.strength, diff.tensor)
    if a and b:
        _check_pair(name, a, b, weight)
        scale = _scale(a, roles.get("alpha"), adapter, config)
        yield Update(name, config.strength * scale, b.tensor, a.tensor)
    elif half := a or b or roles.get("alpha"):
        raise WeightsError(f"{half.key} has no other half")


def _check_pair(name: str, a: Entry, b: Entry, weight: Tensor) -> None:
    shapes = (a.tensor.shape, b.tensor.shape, weight.shape)
    if min(map(len, shapes)) > 1 and len(a.tensor):
        rank, fan_in = a.tensor.flatten(1).shape
        if b.tensor.flatten(1).shape == (len(weight), rank) and fan_in == weight[0].numel():
            return
    raise WeightsError(f"{a} and {b} do not fit {name} {list(weight.shape)}")


def _scale(a: Entry, alpha: Entry | None, adapter: Adapter, config: LoraConfig) -> float:
    rank = len(a.tensor)
    for told in (config.rank, adapter.rank(a.layer)):
        if told not in (None, rank):
            raise WeightsError(f"{a.key} has rank {rank}, not {told} as the card or the configuration says")
    return alpha.tensor.item() / rank if alpha else adapter.scale(a.layer, rank)
