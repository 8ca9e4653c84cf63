"""uvicorn's HTTP/1.1, with the bounds that it has not: time for headers, time to read, connections."""

import asyncio
import json
import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr

from services.web.bounded_config import BoundedConfig
from services.web.certificates import CERTIFICATE_NAME, certificate_name
from services.web.crowd import place_of
from services.web.problems import MEDIA_TYPE, Problem
from services.web.safety import HEADERS
from services.web.socket_protocol import BoundedSocket
from services.web.writes import BoundedWrites


class BoundedProtocol(BoundedWrites, H11Protocol):
    """One connection."""

    config: BoundedConfig
    place: str | None = None
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
        if len(self.connections) >= self.config.bounds.max_connections:
            return False
        host = (get_remote_addr(transport) or ("",))[0]
        if self.config.crowd.is_proxy(host):
            return True
        place = place_of(host)
        if not self.config.crowd.enter(place):
            return False
        self.place = place
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._stop_stalled()
        if self.place is not None:
            self.config.crowd.leave(self.place)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        super().handle_websocket_upgrade(event)
        protocol = self.transport.get_protocol()
        assert isinstance(protocol, BoundedSocket)
        protocol.place, self.place = self.place, None

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
        content = json.dumps(Problem(status, "this is no HTTP request that is taken here").content()).encode()
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
