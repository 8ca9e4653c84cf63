"""Longer and longer waits after failures in a row."""

import asyncio
import random
from collections.abc import Awaitable, Callable


class Backoff:
    """Doubles from the first to the longest; half of each wait is random, so that nobody acts in step."""

    def __init__(
        self,
        first_s: float,
        longest_s: float,
        *,
        jitter: Callable[[float, float], float] = random.uniform,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._jitter = jitter
        self._sleep = sleep
        self.num_failures = 0
        """In a row."""

    def reset(self) -> None:
        """All is well."""
        self.num_failures = 0

    async def wait(self, extra_s: float | None = None, *, spares_first: bool = False) -> None:
        """After one more failure. `extra_s`: what the server asked for on top, at most `longest_s` of it.
        `spares_first`: the first in a row costs no time."""
        most_s = doubled(self._first_s, self.num_failures, self._longest_s)
        self.num_failures += 1
        if spares_first and self.num_failures == 1:
            return
        await self._sleep(self._jitter(most_s / 2, most_s) + min(extra_s or 0.0, self._longest_s))


def doubled(first_s: float, num_failures: int, longest_s: float) -> float:
    """The first, doubled with each failure before this one."""
    return min(first_s * 2.0 ** min(num_failures, 64), longest_s)
