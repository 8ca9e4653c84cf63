"""What a server takes in: a bounded number of calls at once, and nothing new while it drains."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from services.common.call import Call
from services.common.errors import Draining, Overloaded
from services.common.interceptors.chain import Interceptor


class Gate:
    """Counts the calls inside; open until the drain begins. Health passes by: its watches never end."""

    def __init__(self, open_while_draining: Collection[str] = ()) -> None:
        """`open_while_draining`: methods (`/package.Service/Method`) that are answered to the end, such as
        status and the drain itself."""
        self._always = frozenset(open_while_draining)
        self._num_calls = 0
        self._is_open = True
        self.idle = asyncio.Event()
        """Set while no call is under way."""
        self.idle.set()

    def close(self) -> None:
        self._is_open = False

    def enter(self, method: str, max_calls: int) -> None:
        """Raises Draining or Overloaded."""
        if not self._is_open and method not in self._always:
            raise Draining("this server is draining; call another one")
        if self._num_calls >= max_calls:
            raise Overloaded(f"{max_calls} calls are under way, which is all this server takes")
        self._num_calls += 1
        self.idle.clear()

    def leave(self) -> None:
        self._num_calls -= 1
        if not self._num_calls:
            self.idle.set()


class LimitInterceptor(Interceptor):
    """Nobody enters but through the gate."""

    def __init__(self, gate: Gate, max_concurrent: int) -> None:
        self._gate = gate
        self._max_concurrent = max_concurrent

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        if call.is_health:
            yield
            return
        self._gate.enter(call.method, self._max_concurrent)
        try:
            yield
        finally:
            self._gate.leave()
