"""What PyTorch's own table says of an operator on CUDA. A build for CPUs registers no kernel for it."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torchgen
import yaml
from torch import Tensor

TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
GENERATED = {"dispatch": {"CompositeExplicitAutograd": ""}}
"""Of what is made from another operator, such as the form with `out`, and does not stand there by name."""
ANY_DEVICE = ("CompositeExplicitAutograd", "CompositeImplicitAutograd")


@cache
def _entries() -> dict[str, dict[str, Any]]:
    entries = yaml.load(TABLE.read_text(), Loader=yaml.CSafeLoader)
    return {entry["func"].partition("(")[0]: entry for entry in entries}


@cache
def dispatch_keys(operator: str) -> frozenset[str]:
    """Dispatch keys that `name.overload` has kernels for; those of a structured one stand at its `.out`."""
    entry = _entries().get(operator.removeprefix("aten::").removesuffix(".default"), GENERATED)
    if "structured_delegate" in entry:
        return dispatch_keys(entry["structured_delegate"])
    if "ufunc_inner_loop" in entry:
        return frozenset({"CPU", "CUDA"})
    listed = entry.get("dispatch", {"CompositeImplicitAutograd": ""})
    return frozenset(key.strip() for keys in listed for key in keys.split(","))


def has_cuda_kernel(operator: str) -> bool:
    """Whether CUDA has a kernel of its own for it."""
    return "CUDA" in dispatch_keys(operator)


def runs_on_cuda(operator: str) -> bool:
    """Whether it has one, or is the same for every device."""
    keys = dispatch_keys(operator)
    return "CUDA" in keys or any(key.startswith(ANY_DEVICE) for key in keys)


def tensors(*values: Any) -> Iterator[Tensor]:
    """Those that an operator was given or made: PyTorch's own `tree_iter` takes several times as long."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(*value)
        elif isinstance(value, dict):
            yield from tensors(*value.values())
