"""The event loop of WebRTC, in a thread of its own: encryption never delays what answers health and calls."""

import asyncio
import errno
import itertools
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class UdpLoop(asyncio.SelectorEventLoop):
    """Gives what asks for any UDP port one of a range: aiortc has no setting for it."""

    def __init__(self, host: str, first_port: int, last_port: int) -> None:
        """`host`: the address of all of them; empty: the one that is asked for. Ports 0: the kernel's."""
        super().__init__()
        self._host = host
        self._ports = range(first_port, last_port + 1)
        self._turn = itertools.count()

    async def create_datagram_endpoint(
        self, protocol_factory: Any, local_addr: Any = None, *args: Any, **options: Any
    ) -> Any:
        """Raises OSError where all ports of the range are taken."""
        make = super().create_datagram_endpoint
        if local_addr is None or local_addr[1] != 0:
            return await make(protocol_factory, local_addr, *args, **options)
        host = self._host or local_addr[0]
        for _ in self._ports:
            port = self._ports[next(self._turn) % len(self._ports)]
            try:
                return await make(protocol_factory, (host, port), *args, **options)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"all UDP ports {self._ports[0]}-{self._ports[-1]} are taken")


class RtcThread:
    """Runs work in that loop for callers in another. It starts with the first work."""

    def __init__(self, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._make_loop = make_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Coroutine[Any, Any, T], deadline_s: float) -> T:
        """Raises TimeoutError, and what the work raises."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        return await asyncio.wait_for(asyncio.wrap_future(future), deadline_s)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Soon, without an answer."""
        self._started().call_soon_threadsafe(function, *arguments)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = self._make_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="webrtc", daemon=True)
            self._thread.start()
        return self._loop

    def close(self) -> None:
        if self._loop and self._thread:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(1.0)
