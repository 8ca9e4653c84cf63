"""The one place that touches a private part of grpcio (1.85), for this package and the services.

A write that meets the end of its stream puts a status of its own in front of the server's: by "Internal error
from Core", a refusal such as CONTROLLER_REPLACED would look like a loss. grpcio has no public way around it.
`tests/services/common/test_streams.py` sees it if that part changes.
"""

from contextlib import suppress
from typing import Any

import grpc


def keep_status(call: Any) -> None:
    """Let a call that is written to end with what its server says. To be called before the first write."""
    call._cython_call = KeepsStatus(call._cython_call)


class KeepsStatus:
    """gRPC's inner call, but for what is written to a stream that has ended."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send_serialized_message(self, message: bytes) -> None:
        """Lost where the stream has ended, as on the wire: reading says why. No wait for the status here: it
        comes after all messages that are still to be read, perhaps by the one who writes."""
        with suppress(grpc.aio.InternalError):
            await self._inner.send_serialized_message(message)
