"""Time on a device: CUDA events, or the host's clock."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Mark = Any
"""A point on a device's own timeline: a CUDA event, or the host's clock."""


class Clock:
    """Marks, and the milliseconds between two of them once the device is done."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"

    def mark(self) -> Mark:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def finish(self) -> None:
        """Wait for the device."""
        if self._on_cuda:
            torch.cuda.synchronize()

    def ms(self, start: Mark, end: Mark) -> float:
        """Call after `finish`."""
        return float(start.elapsed_time(end)) if self._on_cuda else 1e3 * (end - start)

    def repeat(self, call: Callable[[], object], repeats: int) -> float:
        """Median milliseconds of a call, after three to warm up."""
        times = []
        for _ in range(3 + repeats):
            start = self.mark()
            call()
            end = self.mark()
            self.finish()
            times.append(self.ms(start, end))
        return statistics.median(times[3:])


@contextmanager
def stopwatch(clock: Clock, owner: type, name: str) -> Iterator[list[tuple[Mark, Mark]]]:
    """While it is open, every call of the method adds the marks before and after it."""
    marks: list[tuple[Mark, Mark]] = []
    original = getattr(owner, name)

    def timed(*arguments: Any) -> Any:
        start = clock.mark()
        result = original(*arguments)
        marks.append((start, clock.mark()))
        return result

    setattr(owner, name, timed)
    try:
        yield marks
    finally:
        setattr(owner, name, original)
