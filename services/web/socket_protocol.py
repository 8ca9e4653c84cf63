"""uvicorn's WebSocket, with the bounds that it has not: unread answers, pieces of a message."""

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from services.web.bounded_config import BoundedConfig
from services.web.writes import BoundedWrites

MAX_FRAGMENTS = 1024
"""Of one message: its bytes are bounded, and empty pieces have none."""


class BoundedSocket(BoundedWrites, WebSocketsSansIOProtocol):
    """One connection, from its handshake on. uvicorn stops reading while a message waits for the application,
    but answers each ping at once: it has to stop for a client that does not take the answers, too."""

    config: BoundedConfig
    place: str | None = None
    """Where the connection is counted; handed over by the protocol that it began with."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
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
        if self.place is not None:
            self.config.crowd.leave(self.place)
        super().connection_lost(exc)
