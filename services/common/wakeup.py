"""Wakes everybody who waits for something to have changed."""

import asyncio
from collections.abc import Callable

Condition = Callable[[], object]


class Wakeup:
    """Whoever waits looks again before it goes on: nothing is missed, since nothing runs between the two."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Condition | None] = {}

    def fire(self) -> None:
        """Wake all who wait now, but for those whose condition does not hold."""
        for waiter, condition in tuple(self._waiting.items()):
            if not waiter.done() and (condition is None or condition()):
                waiter.set_result(None)

    async def wait(self) -> None:
        """Until the next `fire`. The caller looks again, and bounds the wait where one is due."""
        await self._wait(None)

    async def until(self, condition: Condition) -> None:
        """Until this holds, perhaps at once; looked at with each `fire`, which is cheaper than waking up. It
        must not raise. The caller bounds the wait where one is due."""
        while not condition():
            await self._wait(condition)

    async def _wait(self, condition: Condition | None) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = condition
        try:
            await waiter
        finally:
            del self._waiting[waiter]
