"""Keeps one of a session's two streams going: opens it, opens it elsewhere when it is lost, moves it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, Protocol, TypeVar

import structlog

from services.common.race import race
from services.gateway.peers.pool import Peer
from services.gateway.peers.stream import NotSuitable, StreamLost
from services.gateway.placement.ledger import Place

log = structlog.get_logger(__name__)
S = TypeVar("S")
CLOSE_S = 5.0
"""For a stream to end that was asked to."""
MAX_FAILURES = 8
"""Streams in a row that brought nothing: then the session is at fault, not the machines."""


class PeerStream(Protocol):
    """A stream to a stage or a decoder."""

    is_open: bool
    on_open: Callable[[], None]
    """Called when the peer has taken the session."""

    async def run(self) -> Any:
        """Until it ended in order. Raises StreamLost."""
        ...

    def close(self) -> None:
        """Ask for that end."""
        ...


class Keeper(Generic[S]):
    """One session's place at a stage or a decoder, whichever it is at the time."""

    def __init__(
        self,
        place: Place[S],
        *,
        find: Callable[[Collection[str]], Awaitable[Place[S]]],
        open_stream: Callable[[Peer[S]], Awaitable[PeerStream]],
        lost: Callable[[StreamLost | None], None],
        progress: Callable[[], int],
        is_complete: Callable[[], bool],
    ) -> None:
        """`find`: another place, at none of the given addresses. `open_stream` may raise StreamLost. `lost`:
        tells the session, before another place is looked for and the machine is blamed; None: it moves on
        purpose. It raises what is the session's own fault. `progress`: grows with what the streams bring.
        `is_complete`: they have brought everything."""
        self.place = place
        self.is_done = False
        """The stream ended in order: nothing is left to do."""
        self._find = find
        self._open_stream = open_stream
        self._lost = lost
        self._progress = progress
        self._is_complete = is_complete
        self._stream: PeerStream | None = None
        self._moving: asyncio.Task[Place[S]] | None = None
        self._closing = asyncio.Event()
        """The stream was asked to end, since another place is there: however it ends, that is as planned."""
        self._num_failures = 0

    @property
    def is_open(self) -> bool:
        return self.is_done or (self._stream is not None and self._stream.is_open)

    @property
    def address(self) -> str:
        """Where it has its place; empty: nowhere."""
        return "" if self.place.is_released else self.place.peer.address

    async def run(self) -> None:
        """Until the stream ended in order. Raises what `find`, `open_stream` and `lost` raise."""
        try:
            while not (self.is_done or self._is_complete()):
                await self._run_once()
            self.is_done = True
        finally:
            self._drop_move()
            self.place.release()

    def drain(self) -> None:
        """Move as soon as another has a place; until then go on here."""
        if self._moving is None:
            self._moving = asyncio.create_task(self._find({self.place.peer.address}))  # type: ignore[arg-type]
            self._moving.add_done_callback(self._close_stream)

    async def _run_once(self) -> None:
        before = self._progress()
        self._closing.clear()
        leaving = asyncio.create_task(self._leave(self.place.peer))
        lost = None
        try:
            self._stream = await self._open_stream(self.place.peer)
            self._stream.on_open = self.place.praise
            await race(self._stream.run(), self._close_late())
        except StreamLost as error:
            lost = error
        finally:
            leaving.cancel()  # before another place is looked for: the old machine's end is no news there
        if self._is_complete():
            return
        if lost and not self._closing.is_set():
            await self._replace(lost, has_progress=self._progress() > before)
        elif self._moving:
            self._lost(None)
            await self._take(self._moving)
        else:
            self.is_done = True

    async def _leave(self, peer: Peer[S]) -> None:
        """Drain when the pod is told to go, should it not say so itself."""
        await peer.wait_terminating()
        self.drain()

    async def _close_late(self) -> None:
        """Leave a machine that does not answer any more: its own deadlines are longer than a viewer's
        patience."""
        await self._closing.wait()
        await asyncio.sleep(CLOSE_S)
        log.warning("a stream that moves did not end", address=self.place.peer.address, after_s=CLOSE_S)

    async def _replace(self, lost: StreamLost, *, has_progress: bool) -> None:
        self._num_failures = 1 if has_progress else self._num_failures + 1
        self._stream = None
        self._lost(lost)
        if not isinstance(lost, NotSuitable):
            self.place.blame()
        if self._num_failures >= MAX_FAILURES:
            raise lost
        if self._moving is None or not self._moving.done():
            self._drop_move()
            self._moving = asyncio.create_task(self._find(()))  # type: ignore[arg-type]
        await self._take(self._moving)

    async def _take(self, finding: "asyncio.Future[Place[S]]") -> None:
        self._moving = None
        self.place.release()
        self._stream = None
        try:
            self.place = await finding
        except asyncio.CancelledError:
            release_later(finding)
            raise

    def _close_stream(self, finding: "asyncio.Future[Place[S]]") -> None:
        if not finding.cancelled() and finding.exception() is None and self._stream:
            self._closing.set()
            self._stream.close()

    def _drop_move(self) -> None:
        if self._moving:
            release_later(self._moving)
            self._moving = None


def release_later(finding: "asyncio.Future[Place[S]]") -> None:
    """Give back a place that nobody waits for any more."""

    def release(found: "asyncio.Future[Place[S]]") -> None:
        if not found.cancelled() and found.exception() is None:
            found.result().release()

    finding.cancel()
    finding.add_done_callback(release)
