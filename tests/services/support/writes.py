"""Writes that meet the end of a stream, in tests that write without reading."""

from typing import Any

from grpc._cython import cygrpc


class LosesWrites:
    """gRPC's inner call, but what is written after the server has ended the stream is lost, as on the wire.
    grpcio (1.85) puts a status of its own, INTERNAL, in front of the server's, whose reason a test waits for.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send_serialized_message(self, message: bytes) -> None:
        try:
            await self._inner.send_serialized_message(message)
        except cygrpc.InternalError:
            return  # reading says why
