"""Hysteresis on the way down: the highest wish of the last minutes counts."""

from collections import deque
from collections.abc import Callable, Iterable


class Window:
    """Wishes that are younger than `length_s`: one's own, and those that all gateways share."""

    def __init__(self, length_s: float, clock: Callable[[], float]) -> None:
        """`clock`: seconds, monotonic."""
        self._length_s = length_s
        self._clock = clock
        self._own: deque[tuple[float, int]] = deque()
        """(when, wish): falling wishes, since an earlier one that is lower rules nothing."""
        self._shared: list[tuple[float, int]] = []
        """(when it stops counting, wish)."""

    def note(self, wish: int) -> None:
        """One's own, now."""
        while self._own and self._own[-1][1] <= wish:
            self._own.pop()
        self._own.append((self._clock(), wish))

    def share(self, wishes: Iterable[tuple[float, int]]) -> None:
        """All that the gateways have in common, (seconds that it still counts, wish): instead of what was
        shared before."""
        now = self._clock()
        self._shared = [(now + left_s, wish) for left_s, wish in wishes]

    def highest(self) -> int | None:
        """What counts; None where there was no wish."""
        shared = (wish for end, wish in self._shared if end > self._clock())
        return max((*shared, *self._own_since(self._length_s)), default=None)

    def highest_own(self, age_s: float) -> int | None:
        """The highest of one's own that ruled in the last `age_s` seconds, at most the window."""
        return max(self._own_since(age_s), default=None)

    def _own_since(self, age_s: float) -> list[int]:
        """The newest stays in force, however old."""
        now = self._clock()
        while len(self._own) > 1 and self._own[0][0] < now - self._length_s:
            self._own.popleft()
        return [wish for when, wish in self._own if when >= now - age_s or (when, wish) == self._own[-1]]
