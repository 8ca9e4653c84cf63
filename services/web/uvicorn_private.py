"""What depends on uvicorn's internals: connections with more bounds, a server without signals.

It takes protocol classes from others (`http` and `ws` of its Config), but what its own hold (`conn`, `cycle`,
`frames`, `read_paused` and so on) is documented nowhere, and there is no other way to a time for headers, for
a body that nobody reads and answers that nobody takes, to connections per address and bounded WebSockets. So
nothing else here touches it, pyproject.toml fixes its minor version, and each bound has a test.
"""

import asyncio
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11
from websockets.frames import Frame

from services.common.addresses import network_of
from services.common.settings import MIB
from services.web.bounded_config import BoundedConfig
from services.web.certificates import CERTIFICATE_NAME, certificate_name
from services.web.problems import MEDIA_TYPE, Problem
from services.web.safety import HEADERS

http11.MAX_LINE_LENGTH = http11.MAX_NUM_HEADERS = MIB
"""Else a handshake with a line of 8 KiB, or with 129 lines, gets no answer at all. h11 and
`http.max_header_bytes` have bounded it before. Otherwise only the environment could set it."""
MAX_FRAGMENTS = 1024
"""Of one message: its bytes are bounded, and empty pieces have none."""


class BoundedWrites(asyncio.BaseProtocol):
    """A protocol whose connection ends when its client takes nothing from it for `write_timeout_s`."""

    config: BoundedConfig
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Any byte that waits counts: by default only 64 KiB do, and closing waits for fewer without end."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=1)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_stalled()
        self._stalled = self.loop.call_later(self.config.bounds.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_stalled()
        super().resume_writing()

    def _stop_stalled(self) -> None:
        if self._stalled:
            self._stalled.cancel()
        self._stalled = None


class BoundedSocket(BoundedWrites, WebSocketsSansIOProtocol):
    """One connection, from its handshake on. uvicorn stops reading while a message waits for the application,
    but answers each ping at once: it has to stop for a client that does not take the answers, too."""

    config: BoundedConfig
    network: str | None = None
    """Where the connection is counted; handed over by the protocol that it began with."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    async def receive(self) -> Any:
        message = await super().receive()
        if not self.writable.is_set():
            self.transport.pause_reading()
        return message

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.transport.abort()
            return
        super().handle_cont(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_stalled()
        if self.network is not None:
            self.config.crowd.leave(self.network)
        super().connection_lost(exc)


class BoundedProtocol(BoundedWrites, H11Protocol):
    """One connection."""

    config: BoundedConfig
    network: str | None = None
    """Where it is counted. None: nowhere, as those of a proxy are."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self._has_room(transport):
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        if self.config.knows_certificates:
            self.app_state = {**self.app_state, CERTIFICATE_NAME: certificate_name(transport)}
        self._watch()

    def _has_room(self, transport: asyncio.Transport) -> bool:
        """If so, it is counted."""
        if len(self.connections) >= self.config.crowd.max_connections:
            return False
        host = (transport.get_extra_info("peername") or ("",))[0]
        if self.config.crowd.is_proxy(host):
            return True
        network = network_of(host)
        if not self.config.crowd.enter(network):
            return False
        self.network = network
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._stop_stalled()
        if self.network is not None:
            self.config.crowd.leave(self.network)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        super().handle_websocket_upgrade(event)
        protocol = self.transport.get_protocol()
        assert isinstance(protocol, BoundedSocket)
        protocol.network, self.network = self.network, None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Called while the parser's error is being handled, which knows better than 400."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state is not h11.IDLE:
            self.transport.abort()
            return
        text = "this is no HTTP request that is taken here"
        if status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            text = "the headers are larger than the setting http.max_header_bytes allows"
        content = json.dumps(Problem(status, text).content()).encode()
        own = {"content-type": MEDIA_TYPE, "content-length": str(len(content)), "connection": "close"}
        headers = [(name.encode(), value.encode()) for name, value in {**HEADERS, **own}.items()]
        start = h11.Response(status_code=status, headers=headers)
        events = (start, h11.Data(data=content), h11.EndOfMessage())
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """The clock runs from the first byte to the last of the headers, before the first request, and while
        a body comes whose request is answered already: nobody reads that, and uvicorn's own clock stops."""
        limit_s = self._limit_s()
        if limit_s is None:
            self._stop_deadline()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(limit_s, self.transport.abort)

    def _limit_s(self) -> float | None:
        """None: the application, or uvicorn, watches it now."""
        if self.conn.their_state is h11.IDLE:
            return self.config.bounds.header_timeout_s
        is_late = self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE
        return self.config.bounds.body_timeout_s if is_late else None

    def _stop_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = None


class QuietServer(uvicorn.Server):
    """Leaves signals to others, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()
