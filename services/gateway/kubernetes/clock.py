"""Time and chance, which tests replace."""

import asyncio
import random
import time

from services.common.backoff import Backoff

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.2, 30.0


class Clock:
    """The real one."""

    def now(self) -> float:
        """Seconds from some beginning; never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def jitter(self, low: float, high: float) -> float:
        """Somewhere between, so that gateways do not act in step."""
        return random.uniform(low, high)

    def backoff(self) -> Backoff:
        """For calls to the API server."""
        return Backoff(FIRST_BACKOFF_S, MAX_BACKOFF_S, jitter=self.jitter, sleep=self.sleep)
