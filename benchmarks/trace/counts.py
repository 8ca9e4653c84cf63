"""Counts what reaches the device: kernels, casts, bytes, operations, memory, and where the host waits."""

import threading
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from benchmarks.trace.kernels import is_cast, is_composed, is_kernel, name_of, traffic
from benchmarks.trace.operators import tensors
from benchmarks.trace.refusals import check

ALLOCATION_BYTES = 512
"""The caching allocator rounds up to this."""
INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
MASKS = (torch.bool, torch.uint8)
HERE = Path(__file__).parent
CODE = ("cascade_core", "services", "tests")
"""Folders whose lines a wait is told by."""


class HostWaits(Exception):
    """The host asked for a value that is on the device, and there is none here to go on with."""


@dataclass
class Counts:
    """Of one pass, or of whatever ran meanwhile."""

    kernels: int = 0
    casts: int = 0
    """Kernels that change a type, and do nothing else."""
    elementwise_bytes: int = 0
    """Read and written."""
    matmul_flop: int = 0
    """Of matrix products and convolutions."""
    attention_flop: int = 0
    collectives: int = 0
    gathered_bytes: int = 0
    """Received from other ranks."""
    peak_bytes: int = 0
    """Most memory held at once, weights and caches included."""
    waits: list[str] = field(default_factory=list)
    """Where the host waits for the device: what, and at which line."""
    by_operator: dict[str, list[int]] = field(default_factory=dict)
    """Kernels and bytes of each operator."""


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Goes on top of FakeTensorMode."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._thread = threading.get_ident()
        self.live_bytes = 0
        self._counts = Counts()
        self._storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """The counts of what runs within."""
        former, self._counts = self._counts, Counts(peak_bytes=self.live_bytes)
        try:
            yield self._counts
        finally:
            former.peak_bytes = max(former.peak_bytes, self._counts.peak_bytes)
            self._counts = former

    def on_wait(self, what: str) -> None:
        """Note that the host waits; other threads may."""
        if threading.get_ident() == self._thread:
            self._counts.waits.append(f"{what} {_place()}")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_composed(func):
            with self:
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        is_on_device = any(x.device.type == "cuda" for x in tensors(args, kwargs))
        if is_on_device:
            self._check(func, args)
        try:
            made = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise HostWaits(f"the host waits for a result of {func} {_place()}") from None
        if is_on_device or any(x.device.type == "cuda" for x in tensors(made)):
            self._hold(made)
            self._count(func, args, kwargs, made)
        return made

    def _check(self, func: Any, args: tuple[Any, ...]) -> None:
        check(func, args)
        if func in INDEXING and any(x is not None and x.dtype in MASKS for x in args[1]):
            raise HostWaits(f"the host waits for what a mask picks {_place()}")

    def _hold(self, made: Any) -> None:
        for x in tensors(made):
            if x.device.type != "cuda":
                continue
            storage = x.untyped_storage()
            if storage not in self._storages:
                self._storages.add(storage)
                size = -(-storage.nbytes() // ALLOCATION_BYTES) * ALLOCATION_BYTES
                self.live_bytes += size
                weakref.finalize(storage, self._release, size)
        self._counts.peak_bytes = max(self._counts.peak_bytes, self.live_bytes)

    def _release(self, size: int) -> None:
        self.live_bytes -= size

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> None:
        counts, name = self._counts, name_of(func)
        if func.namespace == "prim":
            return
        if func.namespace in ("c10d", "_c10d_functional"):
            self._count_collective(args)
            return
        if not is_kernel(func):
            return
        counts.kernels += 1
        size = 0
        if "attention" in name:
            counts.attention_flop += sdpa_flop_count(*(x.shape for x in args[:3]))  # type: ignore[no-untyped-call]
        elif flop := flop_registry.get(func._overloadpacket):
            counts.matmul_flop += flop(*args, **kwargs, out_val=made)
        else:
            size = traffic(func, args, kwargs, made)
            counts.elementwise_bytes += size
            counts.casts += is_cast(name, args, made)
        entry = counts.by_operator.setdefault(name, [0, 0])
        entry[0] += 1
        entry[1] += size

    def _count_collective(self, args: tuple[Any, ...]) -> None:
        sizes = [x.nbytes for x in tensors(args)]
        self._counts.collectives += 1
        self._counts.gathered_bytes += max(sizes) - min(sizes)


def _place() -> str:
    """The innermost line of the project's own code."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if HERE not in path.parents and any(folder in path.parts for folder in CODE):
            return f"at {'/'.join(path.parts[-2:])}:{frame.lineno}"
    return "outside the project"
