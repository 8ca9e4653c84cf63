"""What CUDA refuses and tensors without data would let pass."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.trace.operators import runs_on_cuda, tensors


class NotOnCuda(Exception):
    """CUDA would refuse the call."""


HALF_ALONE = {"_scaled_dot_product_flash_attention", "_scaled_dot_product_cudnn_attention"}
ONE_TYPE = HALF_ALONE | {
    "_scaled_dot_product_efficient_attention",
    "scaled_dot_product_attention",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "convolution",
    "native_layer_norm",
    "native_group_norm",
    "_fused_rms_norm",
}
"""Kernels that take their floating-point tensors in one type."""
HALF = (torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 256
HEAD_DIM_MULTIPLE = 8


def check(func: Any, args: tuple[Any, ...]) -> None:
    """Raise NotOnCuda where a call of an operator with CUDA tensors would fail there.

    Devices that differ, and shapes that do not fit, fail by themselves.
    """
    if func.namespace != "aten":
        return
    name = func._schema.name.partition("::")[2]
    if not runs_on_cuda(func.name()):
        raise NotOnCuda(f"{name}: CUDA has no kernel for it")
    if name not in ONE_TYPE:
        return
    given = [x for x in tensors(args) if x.is_floating_point()]
    types = {x.dtype for x in given}
    if len(types) > 1:
        raise NotOnCuda(f"{name}: takes one type, not {', '.join(sorted(map(str, types)))}")
    if name in HALF_ALONE and not types <= {*HALF}:
        raise NotOnCuda(f"{name}: takes half precision alone, not {types.pop()}")
    if name in HALF_ALONE:
        _check_heads(name, given)


def _check_heads(name: str, tensors: list[Tensor]) -> None:
    head_dim = tensors[0].shape[-1]
    if head_dim > MAX_HEAD_DIM or head_dim % HEAD_DIM_MULTIPLE:
        raise NotOnCuda(f"{name}: heads of {head_dim} are not a multiple of 8 up to {MAX_HEAD_DIM}")
    if any(x.stride(-1) != 1 for x in tensors):
        raise NotOnCuda(f"{name}: the values of a head must lie side by side")
