"""How many sessions asked for a place lately, and before."""

from collections import deque
from collections.abc import Callable

LATELY_S = 60
BEFORE_S = 840
"""The 14 minutes before the last one show what is usual."""


class Arrivals:
    """Counts by the second, for as long as they matter."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds, monotonic."""
        self._clock = clock
        self._started_s = clock()
        self._seconds: deque[tuple[int, int]] = deque()
        """(second, arrivals in it), rising."""

    def note(self) -> None:
        """One, now."""
        second = int(self._clock())
        before = self._seconds.pop()[1] if self._seconds and self._seconds[-1][0] == second else 0
        self._seconds.append((second, before + 1))
        self._forget()

    def counts(self) -> tuple[int, int]:
        """(in the last minute, in the 14 minutes before). Both 0 until all of that has been watched: what
        comes first would all look like a crowd."""
        self._forget()
        now = self._clock()
        if now - self._started_s < LATELY_S + BEFORE_S:
            return 0, 0
        lately = sum(number for second, number in self._seconds if second > now - LATELY_S)
        return lately, sum(number for _, number in self._seconds) - lately

    def _forget(self) -> None:
        while self._seconds and self._seconds[0][0] <= self._clock() - LATELY_S - BEFORE_S:
            self._seconds.popleft()
