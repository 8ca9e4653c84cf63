"""One stream to a gateway: a Connect call on a channel of its own."""

import asyncio
import time
from collections.abc import Sequence

import grpc

from cascade.v1 import session_pb2
from cascade.v1.session_pb2_grpc import SessionServiceStub
from cascade_client.errors import CascadeClientError, Details, ServerFault, Unavailable, from_rpc
from cascade_client.keep_status import keep_status

ATTACH_DEADLINE_S = 10.0


class GatewayStream:
    """Served by one gateway until it ends. Its reads raise CascadeClientError when it is lost."""

    def __init__(self, channel: grpc.aio.Channel, address: str, metadata: Sequence[tuple[str, str]]) -> None:
        self.address = address
        """Where the channel leads."""
        self._channel = channel
        self._call = SessionServiceStub(channel).Connect(metadata=tuple(metadata))
        keep_status(self._call)
        self.heard_at = time.monotonic()
        """Of the last message."""

    async def attach(
        self, message: session_pb2.ConnectRequest.Attach
    ) -> session_pb2.ConnectResponse.Attached:
        """Say which session, and wait for the answer. Raises CascadeClientError."""
        try:
            async with asyncio.timeout(ATTACH_DEADLINE_S):
                await self.write(session_pb2.ConnectRequest(attach=message))
                answer = await self.read()
        except TimeoutError:
            text = f"the gateway did not answer within {ATTACH_DEADLINE_S:g} s"
            raise Unavailable(text, grpc.StatusCode.UNAVAILABLE) from None
        if answer is None or not answer.HasField("attached"):
            raise ServerFault("the gateway did not say `attached` first", grpc.StatusCode.INTERNAL, Details())
        return answer.attached

    async def read(self) -> session_pb2.ConnectResponse | None:
        """The next message; None: the gateway ended the stream with OK."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        except asyncio.CancelledError:
            if self._call.cancelled() and not _is_cancelling():
                raise Unavailable("the stream was cancelled", grpc.StatusCode.CANCELLED) from None
            raise
        if not isinstance(message, session_pb2.ConnectResponse):
            return None
        self.heard_at = time.monotonic()
        return message

    async def write(self, message: session_pb2.ConnectRequest) -> None:
        """A stream that has ended swallows it: the next read says why it ended."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return
        except asyncio.CancelledError:
            if _is_cancelling():
                raise

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()


def _is_cancelling() -> bool:
    """Whether this task is cancelled, and not the call, for which gRPC raises the same."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def unreachable(error: CascadeClientError, address: str) -> CascadeClientError:
    """The error with the address in it, where nobody of Cascade answered at all."""
    if error.code is not grpc.StatusCode.UNAVAILABLE or error.reason:
        return error
    return Unavailable(f"no gateway answers at {address}: {innermost(str(error))}", error.code)


def innermost(text: str) -> str:
    """What is at the bottom of gRPC's nested explanation."""
    if "Tls handshake failed" in text or "SSL_ERROR" in text:
        return "no TLS connection came about; does it use TLS, with a certificate of this authority?"
    return text.rsplit(": ", 1)[-1].rstrip("]")
