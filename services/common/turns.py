"""Turns at what takes a while: whoever asks for much of it holds up only their own calls."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.errors import Overloaded

AT_ONCE = 4
PATIENCE_S = 10.0


class Turns:
    """One per tenant at a time, first come, first served, and so many in all."""

    def __init__(
        self, what: str, max_waiting: int, *, at_once: int = AT_ONCE, patience_s: float | None = None
    ) -> None:
        """`what`: such as `lists`. `max_waiting`: per tenant. `at_once`: turns at a time, each of a different
        tenant. `patience_s`: how long a call waits for its turn; None:
        PATIENCE_S."""
        self._what = what
        self._max_waiting = max_waiting
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._all = asyncio.Semaphore(at_once)
        self._of: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._num_of: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """A turn for as long as the block lasts. Raises Overloaded where too many wait already, or this one
        too long."""
        if self._num_of[tenant] > self._max_waiting:
            raise Overloaded(f"{self._max_waiting} {self._what} of this tenant wait for their turn")
        self._num_of[tenant] += 1
        own = self._of[tenant]
        try:
            await self._enter(own)
            try:
                yield
            finally:
                self._all.release()
                own.release()
        finally:
            self._num_of[tenant] -= 1
            if not self._num_of[tenant]:
                del self._num_of[tenant], self._of[tenant]

    async def _enter(self, own: asyncio.Lock) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await own.acquire()
                try:
                    await self._all.acquire()
                except BaseException:
                    own.release()
                    raise
        except TimeoutError:
            raise Overloaded(f"this server works at as many {self._what} as it may") from None
