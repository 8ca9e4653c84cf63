"""Bytes that a client does not take."""

import asyncio

from services.web.bounded_config import BoundedConfig


class BoundedWrites(asyncio.BaseProtocol):
    """A protocol whose connection ends where its client takes nothing of it for `write_timeout_s`."""

    config: BoundedConfig
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Any byte that waits counts: by default only 64 KiB do, and to close waits for fewer without end."""
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
