"""Weights in FP8 beside their scales, as torchao lays them into safetensors files: read without torchao.

Of a tensor `a.b.weight` there are `a.b._weight_qdata` and `a.b._weight_scale`, and the file's metadata says
by name what each tensor is (torchao 0.18, `torchao.prototype.safetensors`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from cascade_core.errors import WeightsError
from cascade_core.fp8 import FP8

INSTEAD = "take the file in bf16; quantize: fp8 has it in 8 bits here"
NAMES = "tensor_names"
PLAIN, SCALED = "Tensor", "Float8Tensor"
PARTS = ("qdata", "scale")


class ScaledTensor(torch.Tensor):
    """coded * scales, float32, multiplied when it is used: until then it takes what the file takes."""

    coded: Tensor
    """[N, K], FP8."""
    scales: Tensor
    """Float32, of as many dimensions: [N, 1], or [1, 1] for all."""

    @staticmethod
    def __new__(cls, coded: Tensor, scales: Tensor) -> "ScaledTensor":
        made = torch.Tensor._make_wrapper_subclass(cls, coded.shape, dtype=torch.float32)
        made.coded, made.scales = coded, scales
        return made

    @property
    def is_by_row(self) -> bool:
        """Whether each row has a scale of its own, as `fp8.quantize` along the last dimension gives them."""
        return self.scales.shape == (*self.coded.shape[:-1], 1)

    def product(self) -> Tensor:
        return self.coded.float() * self.scales

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Whatever is done to it, is done to the product."""
        args, kwargs = tree_map_only(cls, cls.product, (args, kwargs or {}))
        return func(*args, **kwargs)


def is_torchao(metadata: Mapping[str, str]) -> bool:
    return NAMES in metadata


def join_scaled(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under their names, from what such a file holds.

    Raises WeightsError for tensors of another type, or parts that are not there or do not fit.
    """
    joined = {
        name: _tensor(path, name, tensors, json.loads(metadata[name])) for name in json.loads(metadata[NAMES])
    }
    used = {part for name in joined for part in (name, *_parts(name))}
    if surplus := sorted(tensors.keys() - used):
        raise WeightsError(f"{path}: {', '.join(surplus)}: of no tensor that its metadata names")
    return joined


def _parts(name: str) -> tuple[str, str]:
    module, _, own = name.rpartition(".")
    prefix = f"{module}." if module else ""
    qdata, scale = (f"{prefix}_{own}_{part}" for part in PARTS)
    return qdata, scale


def _tensor(path: Path, name: str, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> Tensor:
    kind = said["_type"]
    if kind not in (PLAIN, SCALED):
        raise WeightsError(f"{path}: {name}: torchao's {kind} is not supported; {INSTEAD}")
    needed = (name,) if kind == PLAIN else _parts(name)
    if absent := [part for part in needed if part not in tensors]:
        raise WeightsError(
            f"{path}: {', '.join(absent)} is not there; keep one file, or shards that hold both"
        )
    if kind == PLAIN:
        return tensors[name]
    coded, scales = (tensors[part] for part in needed)
    scales = scales.reshape((1,) * coded.dim()) if scales.numel() == 1 else scales
    sides = zip(scales.shape, coded.shape, strict=False)
    fits = scales.dim() == coded.dim() and all(own in (1, side) for own, side in sides)
    if coded.dtype is not FP8 or scales.dtype is not torch.float32 or not fits:
        kinds = f"{coded.dtype} {list(coded.shape)} with scales {scales.dtype} {list(scales.shape)}"
        raise WeightsError(f"{path}: {name}: {kinds} is not supported (by row or by tensor, e4m3); {INSTEAD}")
    return ScaledTensor(coded, scales)
