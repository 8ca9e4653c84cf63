"""Indexing as the operators that it is: what Python's brackets do with CUDA tensors in a build for CUDA."""

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def read(x: Tensor, index: Any) -> Tensor:
    """x[index], as the operators that it is."""
    advanced: dict[int, Tensor] = {}
    dim = 0
    for item in _items(x, index):
        if isinstance(item, int):
            x = x.select(dim, item)
            continue
        if item is None:
            x = x.unsqueeze(dim)
        elif isinstance(item, slice):
            x = aten.slice(x, dim, item.start, item.stop, item.step or 1) if item != slice(None) else x
        else:
            advanced[dim] = item if isinstance(item, Tensor) else torch.tensor(item, device=x.device)
        dim += 1
    return aten.index(x, [advanced.get(at) for at in range(dim)]) if advanced else x


def write(x: Tensor, index: Any, value: Any) -> None:
    """x[index] = value."""
    items = _items(x, index)
    if isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(value, Tensor):
        x.masked_fill_(index, value)  # as PyTorch does it, which waits for nothing
    elif any(isinstance(item, Tensor | list) for item in items):
        indices = [torch.as_tensor(item, device=x.device) for item in items]
        value = value if isinstance(value, Tensor) else torch.full((), value, dtype=x.dtype, device=x.device)
        aten.index_put_(x, indices, value)
    elif isinstance(value, Tensor):
        read(x, index).copy_(value)
    else:
        read(x, index).fill_(value)


def _items(x: Tensor, index: Any) -> list[Any]:
    items = list(index) if isinstance(index, tuple) else [index]
    if any(item is Ellipsis for item in items):
        at = next(number for number, item in enumerate(items) if item is Ellipsis)
        named = sum(item is not None for item in items) - 1
        items[at : at + 1] = [slice(None)] * (x.dim() - named)
    return items
