"""Every call with one answer has a deadline: the client's, cut to the longest allowed, or the default."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.call import Call
from services.common.errors import DeadlineExceeded
from services.common.interceptors.chain import Interceptor


class DeadlineInterceptor(Interceptor):
    """Streams have none: they last as long as a session, and credits, keepalive and drain bound them."""

    def __init__(self, default_s: float, max_s: float) -> None:
        self._default_s = default_s
        self._max_s = max_s

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        if call.streams_responses:
            yield
            return
        asked_s = call.context.time_remaining()
        async with limited(call.name, min(self._default_s if asked_s is None else asked_s, self._max_s)):
            yield


@asynccontextmanager
async def limited(name: str, limit_s: float) -> AsyncIterator[None]:
    """Raises DeadlineExceeded where the block takes longer. `name`: of the call."""
    timer = asyncio.timeout(limit_s)
    try:
        async with timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded(f"{name} took longer than {limit_s:g} s") from None
