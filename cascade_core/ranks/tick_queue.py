"""How a rank's ticks run on its device.

A CPU runs a tick when it is called. CUDA queues it, and a thread answers when the device is done: so the next
tick is queued while this one runs, and the device has no gap between the two. How far ahead is the engine's
choice; a device that hangs answers no tick, which the engine's deadline finds.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from cascade_core.model.host_memory import download, record_event

Tick = Callable[[], Tensor | None]
"""Returns the latents [F, C, h, w] of the block that became clean, if one did."""

Answer = Callable[[Tensor | None, float], None]
"""Takes these latents on the CPU, and the seconds that the device took for the tick."""

Fail = Callable[[], None]
"""Called in the handler of an exception that nobody else sees; ends the process."""


class TickQueue(Protocol):
    """Runs ticks in order, and answers them in order."""

    def run(self, tick: Tick) -> None:
        """Returns once the tick is queued."""


class CpuTicks:
    """A tick has run, and is answered, when `run` returns."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def run(self, tick: Tick) -> None:
        started = time.monotonic()
        latents = tick()
        self._answer(latents, time.monotonic() - started)


class CudaTicks:
    """Ticks run on the current CUDA stream; their latents come back on another, beside the next tick."""

    def __init__(self, device: torch.device, answer: Answer, fail: Fail) -> None:
        """`fail`: for errors that CUDA tells late, when the device is waited for."""
        self._answer = answer
        self._fail = fail
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._waiter = ThreadPoolExecutor(1, "answers", initializer=partial(torch.cuda.set_device, device))

    def run(self, tick: Tick) -> None:
        start = record_event()
        latents = tick()
        end = record_event()
        host, done = None, end
        if latents is not None:
            self._copies.wait_event(end)
            with torch.cuda.stream(self._copies):
                host, done = download(latents)
        # `latents` is held until then: the allocator may not give its memory to a later tick.
        self._waiter.submit(self._finish, start, end, done, host, latents)

    def _finish(
        self,
        start: torch.cuda.Event,
        end: torch.cuda.Event,
        done: torch.cuda.Event,
        host: Tensor | None,
        _latents: Tensor | None,
    ) -> None:
        try:
            done.synchronize()
            self._answer(host, start.elapsed_time(end) / 1e3)
        except Exception:
            self._fail()


def tick_queue(device: torch.device, answer: Answer, fail: Fail) -> TickQueue:
    return CudaTicks(device, answer, fail) if device.type == "cuda" else CpuTicks(answer)
