"""Listed LoRAs, which stay beside the weights: the low-rank pairs in their files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from cascade_core.config import ListedLora, LoraConfig
from cascade_core.errors import WeightsError
from cascade_core.weights.lora import Update, read_lora
from cascade_core.weights.shards import reading

MAX_RANK: Final = 512
OF_A_LAYER: Final = re.compile(r"blocks\.(\d+)\.(.+)\.weight")

Pairs = Mapping[str, Mapping[int, tuple[Tensor, Tensor]]]
"""By part of a layer, and layer: a [R, K] and b [M, R], the LoRA's own scale in it, in float32."""


def read_listed(lora: ListedLora, path: Path, state: Mapping[str, Tensor], targets: tuple[str, ...]) -> Pairs:
    """What a file adds to the layers of the transformer `state`; `targets`: the parts that may be added to.

    Raises WeightsError as `read_lora` does, and for what is no low-rank pair of a target, or too wide.
    """
    config = LoraConfig(repo=lora.repo or "", path=lora.path, key=lora.key, rank=lora.rank, alpha=lora.alpha)
    updates = read_lora(path, config, state)
    pairs: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    with reading(path):
        for update in updates:
            layer, target, pair = _pair(update, targets)
            pairs.setdefault(target, {})[layer] = pair
    return pairs


def _pair(update: Update, targets: tuple[str, ...]) -> tuple[int, str, tuple[Tensor, Tensor]]:
    match = OF_A_LAYER.fullmatch(update.name)
    if update.a is None or match is None or match[2] not in targets:
        what = "a whole difference" if update.a is None else "a pair outside the layers' Linears"
        raise WeightsError(
            f"{update.name}: {what}, which cannot be kept beside the weights; list the file in a card "
            "([[files.lora]]), and it is merged at load"
        )
    a = update.a.float().flatten(1)
    if len(a) > MAX_RANK:
        raise WeightsError(f"{update.name}: rank {len(a)} is not in 1..{MAX_RANK}")
    return int(match[1]), match[2], (a, update.scale * update.b.float().flatten(1))
