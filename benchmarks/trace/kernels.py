"""Which operators are kernels on a GPU, and what they read and write.

An operator that PyTorch composes of others is taken apart as it is on a GPU; views and empty tensors are
free; every other operator is one kernel. Element-wise are all kernels but matrix products, convolutions,
attention and collectives: each reads its inputs and writes its outputs once.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.trace.operators import has_cuda_kernel, tensors

SDPA = torch.ops.aten.scaled_dot_product_attention.default
"""One kernel on a GPU, whichever PyTorch picks."""
FREE = (
    "empty",
    "detach",
    "_unsafe_view",
    "lift_fresh",
    "set_",
    "resize_",
    "wait_tensor",
    "new_empty",
    "alias",
)
"""Operators that launch nothing, besides views."""
WRITES_ALONE = ("copy_", "fill_", "zero_")
"""They do not read what they write to."""
READS_PARTS = ("embedding", "index", "index_select", "gather")
"""They read no more than they write."""


def name_of(func: Any) -> str:
    """Without its library and overload."""
    name: str = func._schema.name.partition("::")[2]
    return name


@cache
def is_composed(func: Any) -> bool:
    """Whether a GPU sees its parts alone."""
    if func.namespace != "aten" or func is SDPA or not func._can_decompose():
        return False
    return not has_cuda_kernel(func.name())


@cache
def is_kernel(func: Any) -> bool:
    """Whether it launches one."""
    return not func.is_view and not name_of(func).startswith(FREE)


def traffic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> int:
    """Bytes that one kernel reads and writes."""
    name = name_of(func)
    if name in READS_PARTS:
        return 2 * _distinct_bytes(made)
    is_source = [not (name in WRITES_ALONE and number == 0) for number in range(len(args))]
    sources = [arg for arg, counts in zip(args, is_source, strict=True) if counts]
    sources += [value for key, value in kwargs.items() if key != "out"]
    return sum(_distinct_bytes(x) for x in tensors(sources, made))


def _distinct_bytes(x: Tensor) -> int:
    """Bytes of the elements, an expanded one counted once."""
    count = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride else 1
    return count * x.element_size()


def is_cast(name: str, args: tuple[Any, ...], made: Any) -> bool:
    """Whether a kernel changes a type, and does nothing else."""
    if name not in ("_to_copy", "copy_"):
        return False
    source = args[1] if name == "copy_" else args[0]
    return bool(source.dtype != made.dtype)
