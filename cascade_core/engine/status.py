"""What an engine tells of itself: a snapshot for whoever asks, and each tick for whoever listens."""

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from cascade_core.ranks.messages import StartTimes

NUM_TICKS_KEPT = 100
"""Ticks that the median is taken over."""


@dataclass(frozen=True)
class EngineStatus:
    """A snapshot for health checks and placement."""

    ready: bool
    """Ranks are up; False while they restart."""
    num_restarts: int
    num_sessions: int
    max_sessions: int
    """Sessions of the default size that fit."""
    num_blocks: int
    """Finished since the start, over all sessions."""
    device: str
    compiled: bool
    """Whether the layers are."""
    start: StartTimes
    """Of the latest start, each part on the rank that took longest; zeros before the first."""
    last_tick_s: float
    median_tick_s: float
    """Compute time of the latest ticks, on the slowest rank; 0 before the first."""
    process_ids: tuple[int, ...]


class EngineObserver(Protocol):
    """Hears what happens, on the event loop. Must return at once, and must not raise."""

    def ticked(self, tick_s: float, has_block: bool) -> None:
        """After each tick: its compute time on the slowest rank, and whether it finished a block."""

    def restarted(self) -> None:
        """The ranks are up again."""


class Counters:
    """What an engine has done so far."""

    def __init__(self, observer: EngineObserver | None) -> None:
        self.num_blocks = 0
        self.num_restarts = 0
        self.ticks_s: deque[float] = deque(maxlen=NUM_TICKS_KEPT)
        self._observer = observer

    @property
    def last_tick_s(self) -> float:
        return self.ticks_s[-1] if self.ticks_s else 0.0

    @property
    def median_tick_s(self) -> float:
        return median(self.ticks_s) if self.ticks_s else 0.0

    def count_tick(self, tick_s: float, has_block: bool) -> None:
        self.num_blocks += has_block
        self.ticks_s.append(tick_s)
        if self._observer:
            self._observer.ticked(tick_s, has_block)

    def count_restart(self) -> None:
        self.num_restarts += 1
        if self._observer:
            self._observer.restarted()
