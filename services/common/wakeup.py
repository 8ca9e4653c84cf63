"""Wakes everybody who waits for something to have changed."""

import asyncio


class Wakeup:
    """`while not condition(): await wakeup.wait()`: nothing is missed, since nothing runs between the two."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Wake all who wait now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self) -> None:
        """Until the next `fire`. The caller looks again, and bounds the wait where one is due."""
        await self._event.wait()
