"""One stream to a stage or a decoder: reading and writing at once, until it ends or the peer is gone."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from cascade.v1 import session_pb2
from cascade_client.keep_status import keep_status
from services.common.call import EPOCH, SESSION
from services.common.race import first_of
from services.common.remote import RemoteError, remote_error
from services.common.streams import BROKEN
from services.common.wakeup import Wakeup
from services.gateway.base.settings import PeerSettings
from services.gateway.journal import Record
from services.gateway.journal.errors import InvalidEntry, OutOfOrder
from services.gateway.peers.peer import Peer

STATUS_S = 1.0
"""For the status of a stream that broke while we wrote."""
LOOKS = 4
"""Looks at what is owed, in one stall timeout."""


Task = asyncio.Future[None]


class StreamedSession(Protocol):
    """A session, as its streams see it."""

    @property
    def record(self) -> Record: ...
    @property
    def wakeup(self) -> Wakeup: ...
    @property
    def asked(self) -> session_pb2.SessionSpec: ...
    @property
    def spec(self) -> session_pb2.SessionSpec:
        """What was asked, with the defaults filled in."""
        ...


class StreamLost(Exception):
    """The stream is over before its time: the peer died, fell silent, stalled, or gave up the session."""

    def __init__(self, reason: str, error: RemoteError | None = None) -> None:
        super().__init__(reason)
        self.error = error
        """What the peer said, if it did."""


class NotSuitable(StreamLost):
    """No stream was opened: the place, found a moment ago, will not do any more. The peer did nothing."""


def metadata(settings: PeerSettings, session: str, epoch: int) -> tuple[tuple[str, str], ...]:
    """Who calls, and for which session, as the peers' logs tell it."""
    return (*credential(settings.api_key_file), (SESSION, session), (EPOCH, str(epoch)))


def credential(api_key_file: Path | None) -> tuple[tuple[str, str], ...]:
    """The header of this gateway's own key; the file is read at each use, so that keys can be rotated."""
    if api_key_file is None:
        return ()
    return (("authorization", f"Bearer {api_key_file.read_text().strip()}"),)


async def converse(
    call: Any, peer: Peer[Any], read: Coroutine[Any, Any, None], *others: Coroutine[Any, Any, None]
) -> None:
    """Until `read` returns; `others` write, or watch. Raises StreamLost, or what one of them raises of its
    own; the stream is over then."""
    keep_status(call)
    reading = asyncio.ensure_future(read)
    tasks: list[Task] = [reading, *map(asyncio.ensure_future, others), asyncio.ensure_future(lose(peer))]
    try:
        (await first_end(reading, tasks)).result()
    except grpc.aio.AioRpcError as error:
        raise StreamLost(f"{peer.address}: {error.details()}", remote_error(error)) from None
    except BROKEN as error:
        raise StreamLost(f"{peer.address}: the stream broke: {error}") from None
    except (OutOfOrder, InvalidEntry, DecodeError) as error:
        raise StreamLost(f"{peer.address}: what came is not of this session: {error}") from None
    except asyncio.CancelledError:
        ours = asyncio.current_task()
        if ours and ours.cancelling():
            raise
        # grpc cancels whoever reads then
        raise StreamLost(f"{peer.address}: the channel was closed") from None
    finally:
        for task in tasks:
            task.cancel()
        call.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first_end(reading: Task, tasks: list[Task]) -> Task:
    """The task whose end is the stream's: `reading`, or one that failed."""
    pending = set(tasks)
    while True:
        done = await first_of(pending)
        pending -= done
        if reading in done:
            return reading
        if failed := [task for task in done if task.exception()]:
            if isinstance(failed[0].exception(), (*BROKEN, grpc.aio.AioRpcError)):
                await asyncio.wait([reading], timeout=STATUS_S)  # it learns why the stream broke
            return reading if reading.done() else failed[0]


async def lose(peer: Peer[Any]) -> None:
    """Raises StreamLost when the peer is gone."""
    raise StreamLost(await peer.wait_gone())


async def read_within(call: Any, deadline_s: float, what: str) -> Any:
    """The next message; EOF at the end of the stream. Raises StreamLost after the deadline."""
    try:
        async with asyncio.timeout(deadline_s):
            return await call.read()
    except TimeoutError:
        raise StreamLost(f"no {what} within {deadline_s:g} s") from None


async def watch_stall(what: str, limit_s: float, owed: Callable[[], int | None]) -> None:
    """Raises StreamLost when something owed does not come: `owed` gives its number, or None while nothing is
    owed."""
    seen, since = None, time.monotonic()
    while True:
        await asyncio.sleep(limit_s / LOOKS)
        number = owed()
        if number is None or number != seen:
            seen, since = number, time.monotonic()
        elif time.monotonic() - since >= limit_s:
            raise StreamLost(f"no {what} within {limit_s:g} s")
