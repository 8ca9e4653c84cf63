"""Time that a test moves."""

import asyncio

from services.gateway.kubernetes.clock import Clock


class FakeClock(Clock):
    """Stands still until `advance`; chance always takes the upper end."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        sleeper = (self.time_s + seconds, asyncio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    def jitter(self, low: float, high: float) -> float:
        return high

    def advance(self, seconds: float) -> None:
        """Wake whoever slept for so long."""
        self.time_s += seconds
        for due_s, event in self._sleepers:
            if due_s <= self.time_s:
                event.set()


class HurriedClock(Clock):
    """Nobody has to wait: a sleep only moves the time."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.sleeps: list[float] = []
        """All of them, in seconds."""

    def now(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time_s += seconds
        await asyncio.sleep(0.001)

    def jitter(self, low: float, high: float) -> float:
        return high
