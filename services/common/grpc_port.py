"""A service's gRPC port, and how it gets another certificate: by another server.

grpcio can ask a callback for the certificate of each connection, and dies of it: a few thousand handshakes
that fail bring the process down (SIGABRT, SIGSEGV; grpcio 1.85.1). So credentials never change under a
server. When files of TLS have, a second server with new ones opens the same port (SO_REUSEPORT), and the
first takes no more connections and keeps its streams until they end. `lines.py` bounds the number of
connections, in all and by address.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import structlog

from cascade_core.errors import InvalidConfig
from services.common.addresses import join
from services.common.channel import server_options
from services.common.lines import Lines
from services.common.listening import listen
from services.common.settings import GrpcSettings, ServerSettings
from services.common.tls import server_credentials

log = structlog.get_logger(__name__)
CHECK_S = 2.0
"""Between two looks at the files."""
FOR_EVER_S = 10 * 365 * 86_400.0
"""A stream may last as long as it likes after a renewal."""

Options = list[tuple[str, int]]


class GrpcPort:
    """Listens from `open` to `stop`."""

    def __init__(
        self,
        settings: ServerSettings,
        lines: Lines,
        make: Callable[[Options], grpc.aio.Server],
        inner_address: str = "",
    ) -> None:
        """`make`: a server with everything registered, which listens nowhere yet. `inner_address`: see
        Service. It has a server of its own, since one that leaves would take the socket's file along."""
        self._grpc: GrpcSettings = settings.grpc
        self._lines = lines
        self._make = make
        self._credentials = server_credentials(settings.tls)
        self._inner_address = inner_address
        self._server: grpc.aio.Server | None = None
        self._inner: grpc.aio.Server | None = None
        self._leaving: dict[grpc.aio.Server, asyncio.Task[None]] = {}
        self._watching: list[asyncio.Task[None]] = []
        self.number = 0

    async def open(self) -> None:
        """Raises InvalidConfig, which names the setting in the way."""
        self.number = self._grpc.port
        if self._credentials and self.number:
            self._require_free()
        self._server = self._listen()
        await self._server.start()
        if self._inner_address:
            self._inner = self._make(list(server_options(self._grpc)))
            self._inner.add_insecure_port(self._inner_address)
            await self._inner.start()
        self._watch(self._lines.keep_bounded(self.number), "connections")
        if self._credentials:
            self._watch(self._renew(), "certificates")

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; those that are still there are cancelled after the grace."""
        for watching in self._watching:
            watching.cancel()
        servers = [*self._leaving, *filter(None, (self._server, self._inner))]
        await asyncio.gather(*(server.stop(grace_s) for server in servers))

    def _watch(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._watching.append(asyncio.create_task(work, name=name))

    async def _renew(self) -> None:
        assert self._credentials
        assert self._server
        is_due = False
        while True:
            await asyncio.sleep(CHECK_S)
            is_due = self._credentials.refresh() or is_due
            if not is_due:
                continue
            try:
                server = self._listen()
                await server.start()
            except Exception as error:  # whatever it is: the old certificate is better than none
                log.error("no server with the new certificate; trying again", error=str(error))
                continue
            self._leave(self._server)
            self._server, is_due = server, False

    def _leave(self, server: grpc.aio.Server) -> None:
        """It takes no more connections, and tells those that it has to make their next calls elsewhere."""
        leaving = asyncio.create_task(server.stop(FOR_EVER_S), name="last streams of an old certificate")
        self._leaving[server] = leaving
        leaving.add_done_callback(lambda _: self._leaving.pop(server))

    def _listen(self) -> grpc.aio.Server:
        credentials = self._credentials.get() if self._credentials else None
        # In plain text a second process on the port must fail, not share it.
        server = self._make(
            [
                *server_options(self._grpc),
                ("grpc.max_allowed_incoming_connections", self._lines.max_accepted),
                ("grpc.so_reuseport", int(credentials is not None)),
            ]
        )
        address = join(self._grpc.host, self.number)
        try:
            if credentials is None:
                self.number = server.add_insecure_port(address)
            else:
                self.number = server.add_secure_port(address, credentials)
        except RuntimeError:
            raise self._taken(address) from None
        return server

    def _require_free(self) -> None:
        """With SO_REUSEPORT a second process would share the port: look for a first one."""
        try:
            for listener in listen(self._grpc.host, self.number):
                listener.close()
        except OSError:
            raise self._taken(join(self._grpc.host, self.number)) from None

    @staticmethod
    def _taken(address: str) -> InvalidConfig:
        return InvalidConfig(f"grpc.host, grpc.port: {address} is taken, or no address of this machine")
