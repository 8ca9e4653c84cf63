"""Longer and longer waits after failures in a row."""

from services.gateway.kubernetes.clock import Clock

FIRST_S, MAX_S = 0.2, 30.0


class Backoff:
    """Doubles from 0.2 s to 30 s, half of it by chance."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.num_failures = 0
        """In a row."""

    def reset(self) -> None:
        """All is well."""
        self.num_failures = 0

    async def wait(self, extra_s: float | None = None, *, spares_first: bool = False) -> None:
        """After one more failure. `extra_s`: what the server asked for, at most 30 s of it. `spares_first`:
        the first in a row costs no time."""
        longest = min(FIRST_S * 2 ** min(self.num_failures, 16), MAX_S)
        self.num_failures += 1
        if spares_first and self.num_failures == 1:
            return
        wait_s = self._clock.jitter(longest / 2, longest)
        await self._clock.sleep(wait_s + min(extra_s or 0.0, MAX_S))
