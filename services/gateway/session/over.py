"""The end of a session, as an exception: whoever finds out raises it, its conductor writes it down."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from google.rpc.status_pb2 import Status

from cascade.v1 import session_pb2
from services.common.errors import NotReady
from services.common.status import describe


class SessionOver(Exception):
    """The session is over, for this reason."""

    def __init__(self, reason: "session_pb2.EndReason.ValueType", status: Status | None = None) -> None:
        super().__init__(session_pb2.EndReason.Name(reason))
        self.reason = reason
        self.status = status
        """Details, where the reason is FAILED or EVICTED."""


def failed(error: BaseException) -> SessionOver:
    """The end of a session that cannot go on because of this error."""
    return SessionOver(session_pb2.END_REASON_FAILED, describe(error, ""))


@asynccontextmanager
async def or_over(seconds: float | None, what: str, why: Callable[[], str] = str) -> AsyncIterator[None]:
    """Raises SessionOver where the block takes longer; None: it may. `why`: what keeps it, if known."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        reason = f": {found}" if (found := why()) else ""
        raise failed(NotReady(f"no {what} had a place within {seconds:g} s{reason}")) from None
