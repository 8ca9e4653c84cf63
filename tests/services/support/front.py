"""One address in front of one server or several, as a Service is; its connections can be cut."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

CHUNK_BYTES = 2**16


class Front:
    """Passes bytes on. A connection stays where it went, whatever becomes of the list."""

    def __init__(self, *backends: str, idle_s: float | None = None) -> None:
        """`backends`: as for `lead_to`. `idle_s`: a connection that is silent for that long is cut."""
        self._idle_s = idle_s
        self.address = ""
        self._backends = deque(backends)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._num_silences = 0

    async def start(self) -> None:
        """At a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def lead_to(self, backends: Sequence[str]) -> None:
        """From now on, new connections go to these, one after the other; without any they are closed."""
        self._backends = deque(backends)

    def cut(self) -> int:
        """All connections that are open, as by a network that is gone for a moment; how many there were."""
        for task in self._connections:
            task.cancel()
        return len(self._connections)

    def silence(self) -> None:
        """From now on nothing goes over the connections that are open, and neither side is told."""
        self._num_silences += 1

    async def close(self) -> None:
        if self._server:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            with suppress(asyncio.CancelledError):  # by `close` alone
                await self._connect(reader, writer)
        finally:
            writer.close()
            self._connections.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._backends:
            return
        self._backends.rotate(-1)
        host, _, port = self._backends[0].rpartition(":")
        with suppress(OSError):
            backend_reader, backend_writer = await asyncio.open_connection(host, int(port))
            try:
                ways = ((reader, backend_writer), (backend_reader, writer))
                tasks = [asyncio.create_task(self._pass_on(*way)) for way in ways]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                backend_writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side is closed or broken, or nothing comes for that long."""
        num_silences = self._num_silences
        with suppress(OSError):
            while data := await asyncio.wait_for(reader.read(CHUNK_BYTES), self._idle_s):
                if self._num_silences > num_silences:
                    await asyncio.Event().wait()  # until it is cut
                writer.write(data)
                await writer.drain()
