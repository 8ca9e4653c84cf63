"""Ticks on a device: answered in order, on CUDA only once the device is done, and never silently lost.

Streams and events of CUDA stand in here: what a test holds back is what a device has not done yet.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from cascade_core.ranks.tick_queue import CudaTicks, TickQueue, tick_queue
from tests.support import CPU

CUDA = torch.device("cuda", 0)
WAIT_S = 10.0


@dataclass
class FakeEvent:
    """Reached when the test says so, or fails as CUDA does: late."""

    number: int
    reached: threading.Event = field(default_factory=threading.Event)
    error: str = ""

    def record(self) -> None: ...

    def synchronize(self) -> None:
        assert self.reached.wait(WAIT_S)
        if self.error:
            raise RuntimeError(self.error)

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1000.0 * (end.number - self.number)


class FakeDevice:
    """Its events in the order in which they were recorded, and what the queue did with them."""

    def __init__(self) -> None:
        self.events: list[FakeEvent] = []
        self.waits: list[FakeEvent] = []
        self.answers: queue.Queue[tuple[float | None, float]] = queue.Queue()
        self.failures: queue.Queue[str] = queue.Queue()

    def event(self, **options: bool) -> FakeEvent:
        assert options == {"enable_timing": True, "blocking": True}
        self.events.append(FakeEvent(len(self.events)))
        return self.events[-1]

    def wait_event(self, event: FakeEvent) -> None:
        self.waits.append(event)

    def answer(self, latents: Tensor | None, compute_s: float) -> None:
        self.answers.put((None if latents is None else float(latents), compute_s))

    def fail(self) -> None:
        self.failures.put("failed")

    def go_on(self, event: int, error: str = "") -> None:
        self.events[event].error = error
        self.events[event].reached.set()

    def download(self, latents: Tensor) -> tuple[Tensor, FakeEvent]:
        return latents.clone(), self.event(enable_timing=True, blocking=True)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    made = FakeDevice()
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr("cascade_core.ranks.tick_queue.download", made.download)
    yield made
    for event in made.events:
        event.reached.set()


@pytest.fixture
def cuda(fake: FakeDevice) -> TickQueue:
    ticks = tick_queue(CUDA, fake.answer, fake.fail)
    assert isinstance(ticks, CudaTicks)
    return ticks


def test_on_a_cpu_a_tick_is_answered_before_the_next_begins() -> None:
    told: list[str] = []
    ticks = tick_queue(
        CPU, lambda latents, compute_s: told.append(f"answer {latents} {compute_s >= 0}"), exit
    )
    for number in range(2):
        ticks.run(lambda number=number: told.append(f"tick {number}"))  # type: ignore[misc]
    assert told == ["tick 0", "answer None True", "tick 1", "answer None True"]


def test_on_a_cpu_an_error_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        tick_queue(CPU, lambda latents, compute_s: None, exit).run(lambda: torch.tensor(1 // 0))


def test_the_next_tick_is_queued_while_one_runs(cuda: TickQueue, fake: FakeDevice) -> None:
    """Events: start, end and copied of a tick that emits; start and end of one that does not."""
    cuda.run(lambda: torch.tensor(5.0))
    cuda.run(lambda: None)
    assert [event.number for event in fake.waits] == [1], "the copy waits for the tick that it copies from"
    assert fake.answers.empty()
    fake.go_on(4)
    assert fake.answers.empty(), "the answers keep the order of the ticks"
    fake.go_on(2)
    assert fake.answers.get(timeout=WAIT_S) == (5.0, 1.0), "time of the device alone, without the copy"
    assert fake.answers.get(timeout=WAIT_S) == (None, 1.0)
    assert fake.failures.empty()


def test_what_cuda_tells_late_ends_the_rank(cuda: TickQueue, fake: FakeDevice) -> None:
    cuda.run(lambda: None)
    fake.go_on(1, "CUDA error: an illegal memory access was encountered")
    assert fake.failures.get(timeout=WAIT_S) == "failed"
    assert fake.answers.empty()


def test_an_answer_that_cannot_be_sent_ends_the_rank(fake: FakeDevice) -> None:
    def answer(latents: Tensor | None, compute_s: float) -> None:
        raise ValueError("cannot be pickled")

    tick_queue(CUDA, answer, fake.fail).run(lambda: None)
    fake.go_on(1)
    assert fake.failures.get(timeout=WAIT_S) == "failed"


def test_a_tick_that_raises_is_the_callers(cuda: TickQueue, fake: FakeDevice) -> None:
    with pytest.raises(ZeroDivisionError):
        cuda.run(lambda: torch.tensor(1 // 0))
    assert fake.answers.empty()
