"""How fast a queue moves."""

from collections.abc import Callable

WEIGHT = 0.2
"""Of the newest interval in the average."""


class Pace:
    """Exponential average of the time between events."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_s: float | None = None
        self._interval_s: float | None = None

    def observe(self) -> None:
        """One event, now."""
        now = self._clock()
        if self._last_s is not None:
            self._interval_s = self._average(now - self._last_s)
        self._last_s = now

    def interval_s(self) -> float | None:
        """Expected time between two events; None before the second. Grows while none comes for longer."""
        if self._last_s is None or self._interval_s is None:
            return None
        return max(self._interval_s, self._average(self._clock() - self._last_s))

    def _average(self, newest_s: float) -> float:
        if self._interval_s is None:
            return newest_s
        return self._interval_s + WEIGHT * (newest_s - self._interval_s)
