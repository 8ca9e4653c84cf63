"""A state that many watch: now, at every change, and at least once in an interval."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_S = 0.05
"""How often the state is looked at anyway: some of it changes without telling."""


class Board(Generic[T]):
    """Changes that come faster than a watcher reads are one change to it."""

    def __init__(self, read: Callable[[], T], key: Callable[[T], Hashable]) -> None:
        """`read`: the whole state as of now; must return at once. `key`: what makes two states differ."""
        self._read = read
        self._key = key
        self._changed = asyncio.Event()
        self._closed = False

    def note_change(self) -> None:
        """Let all watchers look now."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Let all watches end after one more report."""
        self._closed = True
        self.note_change()

    async def watch(self, interval_s: float) -> AsyncGenerator[T, None]:
        """The state, until the board is closed."""
        while not self._closed:
            state = self._read()
            yield state
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._until_differs(self._key(state))
        yield self._read()

    async def _until_differs(self, key: Hashable) -> None:
        while not self._closed:
            changed = self._changed  # taken before reading: a change meanwhile is seen next
            if self._key(self._read()) != key:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await changed.wait()
