"""Method, peer, request id, session and epoch on every line that is logged during a call."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from services.common.call import EPOCH, SESSION, Call
from services.common.interceptors.chain import Interceptor

log = structlog.get_logger(__name__)


class LogInterceptor(Interceptor):
    """Session and epoch come from headers, or later from the handler, which calls `bind_session`."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        names = {
            "method": call.method,
            "peer": call.context.peer(),
            "request_id": call.request_id,
            "session": call.word(SESSION),
            "epoch": call.word(EPOCH),
        }
        structlog.contextvars.bind_contextvars(**{name: value for name, value in names.items() if value})
        started = time.monotonic()
        try:
            yield
        finally:
            tell = log.debug if call.is_health else log.info
            duration_ms = round((time.monotonic() - started) * 1000, 1)
            tell("call ended", code=call.code.name if call.code else None, duration_ms=duration_ms)


def bind_session(session: str, epoch: int | None = None) -> None:
    """For the rest of this call, and in tasks started from here on. None: nothing that has an epoch."""
    epochs = {} if epoch is None else {"epoch": epoch}
    structlog.contextvars.bind_contextvars(session=session, **epochs)
