"""Which connections are in play, and a bound for those of one address."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.call import Call
from services.common.interceptors.chain import Interceptor
from services.common.lines import Lines


class LineInterceptor(Interceptor):
    """Tells `Lines` of each call."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        with self._lines.carry(call.context.peer(), is_health=call.is_health):
            yield
