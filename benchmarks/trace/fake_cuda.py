"""A CUDA device that is not there: tensors with shapes, types and a device, and no data.

PyTorch's FakeTensorMode does that on any build. What a build for CPUs refuses even so stands in here: the
Python bindings of some methods look for a CUDA driver before any operator is reached, so these call the
operators; streams and events are empty. `on_wait` is told of each place where the host waits for the device.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from benchmarks.trace.indexing import read, write
from benchmarks.trace.streams import OnWait, stream_stand_ins
from cascade_core.attention import attention

CUDA = torch.device("cuda", 0)
HOPPER = (9, 0)
CUDNN = 92000
"""A version that PyTorch's own rule finds good; a build for CPUs has none."""
MEMORY_BYTES = 141 * 10**9
"""Of an H200."""

aten = torch.ops.aten


class _Generator(torch.Generator):
    """One of the host that passes for one of the device."""

    device = CUDA


@contextmanager
def fake_cuda(on_wait: OnWait, capability: tuple[int, int] = HOPPER) -> Iterator[torch.device]:
    """Within it `CUDA` is a device of that compute capability; for one thread at a time."""
    with ExitStack() as stack:
        stack.callback(attention._preferred_kernel.cache_clear)
        attention._preferred_kernel.cache_clear()
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(torch.no_grad())  # autograd looks for a driver too, and aborts
        stand_ins = {
            (torch.cuda, "get_device_capability"): lambda device=None: capability,
            (torch.cuda, "set_device"): lambda device: None,
            (torch.cuda, "mem_get_info"): lambda device=None: (MEMORY_BYTES, MEMORY_BYTES),
            (torch.backends.cudnn, "version"): lambda: CUDNN,
        }
        for (owner, name), value in (stand_ins | stream_stand_ins(on_wait) | _bindings(on_wait)).items():
            stack.enter_context(patch.object(owner, name, value))
        yield CUDA


def _bindings(on_wait: OnWait) -> dict[tuple[Any, str], Callable[..., Any]]:
    """Methods and functions as a build for CUDA would have them."""
    pinned: WeakSet[torch.UntypedStorage] = WeakSet()
    to, cpu, getitem, setitem = Tensor.to, Tensor.cpu, Tensor.__getitem__, Tensor.__setitem__
    contiguous, numpy = Tensor.contiguous, Tensor.numpy
    tensor, as_tensor, empty, generator = torch.tensor, torch.as_tensor, torch.empty, torch.Generator

    def is_pinned(x: Tensor, device: object = None) -> bool:
        return x.untyped_storage() in pinned

    def pin(x: Tensor, device: object = None) -> Tensor:
        copied = x.clone()
        pinned.add(copied.untyped_storage())
        return copied

    def tell(source: Tensor, target: Tensor, non_blocking: bool) -> None:
        on_host = [x for x in (source, target) if x.device.type == "cpu"]
        if len(on_host) != 1:
            return
        if not is_pinned(on_host[0]):
            way = "to" if on_host[0] is target else "from"
            on_wait(f"copy {way} pageable memory of the host")
        elif not non_blocking:
            on_wait("blocking copy between host and device")

    def move(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        moved: Tensor = to(x, *args, **kwargs)
        flags = (each for each in args if isinstance(each, bool))
        tell(x, moved, kwargs.get("non_blocking", next(flags, False)))
        return moved

    def bring(x: Tensor, **options: Any) -> Tensor:
        return move(x, "cpu") if x.device.type == "cuda" else cpu(x, **options)

    def copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        tell(source, x, non_blocking)
        copied: Tensor = aten.copy_(x, source, non_blocking)
        return copied

    def make(data: Any, **options: Any) -> Tensor:
        made = tensor(data, **options)
        if made.device.type == "cuda":
            on_wait("copy from pageable memory of the host")
        return made

    def take(data: Any, **options: Any) -> Tensor:
        return as_tensor(data, **options) if isinstance(data, Tensor) else make(data, **options)

    def make_empty(*args: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        if not pin_memory:
            return empty(*args, **options)
        with unset_fake_temporarily():  # NumPy fills it
            return pin(empty(*args, **options))

    def to_numpy(x: Tensor, **options: Any) -> Any:
        assert not isinstance(x, FakeTensor), "a tensor without data"
        with unset_fake_temporarily():
            return numpy(x, **options)

    def get(x: Tensor, index: Any) -> Tensor:
        return read(x, index) if x.device.type == "cuda" else getitem(x, index)

    def put(x: Tensor, index: Any, value: Any) -> None:
        write(x, index, value) if x.device.type == "cuda" else setitem(x, index, value)

    def lay_out(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        call = aten.contiguous if x.device.type == "cuda" else contiguous
        laid_out: Tensor = call(x, memory_format=memory_format)
        return laid_out

    return {
        (Tensor, "to"): move,
        (Tensor, "cuda"): lambda x, **options: move(x, CUDA, **options),
        (Tensor, "cpu"): bring,
        (Tensor, "copy_"): copy,
        (Tensor, "contiguous"): lay_out,
        (Tensor, "nonzero"): lambda x: aten.nonzero(x),
        (Tensor, "numpy"): to_numpy,
        (Tensor, "__getitem__"): get,
        (Tensor, "__setitem__"): put,
        (Tensor, "is_pinned"): is_pinned,
        (Tensor, "pin_memory"): pin,
        (torch, "tensor"): make,
        (nn.Module, "to"): _place,
        (torch, "as_tensor"): take,
        (torch, "empty"): make_empty,
        (torch, "Generator"): lambda device="cpu": (
            _Generator() if torch.device(device) == CUDA else generator(device)
        ),
    }


def _place(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """`Module.to`, which swaps tensors that have no data, and in this build of PyTorch cannot."""
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    placed: dict[Tensor, Any] = {}

    def place(x: Tensor | None) -> Any:
        if x is None:
            return None
        if x not in placed:
            moved = x.to(device, dtype if x.is_floating_point() else None)
            placed[x] = nn.Parameter(moved, x.requires_grad) if isinstance(x, nn.Parameter) else moved
        return placed[x]

    for part in module.modules():
        part._parameters.update({name: place(x) for name, x in part._parameters.items()})
        part._buffers.update({name: place(x) for name, x in part._buffers.items()})
    return module
