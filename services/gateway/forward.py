"""Calls for sessions that another gateway has: any gateway answers for all, by asking the owner."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any

import grpc

from cascade.v1 import session_pb2, session_pb2_grpc
from cascade_core.errors import CascadeError
from services.common.call import Call
from services.common.channel import open_channel
from services.common.errors import NotReady
from services.common.remote import RemoteError, remote_error
from services.gateway.link import BROKEN
from services.gateway.settings import PeerSettings

FORWARDED = "cascade-forwarded"
"""Header of a forwarded call: a gateway that does not have the session either does not pass it on."""
PASSED_ON = ("authorization", "x-request-id", "traceparent", "tracestate")
CHANGING = ("DRAINING", "NOT_READY")
MAX_CHANNELS = 64


class Forwarder:
    """Channels to other gateways, opened when first needed."""

    def __init__(self, settings: PeerSettings) -> None:
        self._settings = settings
        self._channels: OrderedDict[str, grpc.aio.Channel] = OrderedDict()

    async def unary(self, address: str, call: Call, request: Any) -> Any:
        """The owner's answer. Raises RemoteError."""
        method = getattr(self._stub(address), call.name)
        left_s = call.context.time_remaining()
        try:
            return await method(request, metadata=headers(call), timeout=left_s, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise remote_error(error) from None

    async def connect(
        self,
        address: str,
        call: Call,
        attach: session_pb2.ConnectRequest,
        requests: AsyncIterator[session_pb2.ConnectRequest],
    ) -> AsyncGenerator[session_pb2.ConnectResponse, None]:
        """The owner's stream. Raises RemoteError, and what `requests` does. No request is read before the
        first response, so until then the same requests can be sent elsewhere."""
        stream = self._stub(address).Connect(metadata=headers(call))
        sending: asyncio.Task[CascadeError | None] | None = None
        try:
            with suppress(*BROKEN):  # reading tells why
                await stream.write(attach)
            while (response := await stream.read()) is not grpc.aio.EOF:
                sending = sending or asyncio.create_task(send(stream, requests))
                yield response
        except grpc.aio.AioRpcError as error:
            raise remote_error(error) from None
        except asyncio.CancelledError:
            if sending and sending.done() and (refused := sending.result()):
                raise refused from None
            raise
        finally:
            stream.cancel()
            if sending:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    def _stub(self, address: str) -> Any:
        channel = self._channels.pop(address, None)
        if channel is None:
            channel = open_channel(address, self._settings.grpc(), self._settings.credentials())
        self._channels[address] = channel
        if len(self._channels) > MAX_CHANNELS:
            self._channels.popitem(last=False)  # its streams end when they are done with it
        return session_pb2_grpc.SessionServiceStub(channel)


async def send(stream: Any, requests: AsyncIterator[session_pb2.ConnectRequest]) -> CascadeError | None:
    """Pass a client's messages on; those of a stream that is over fall away. One that is not valid ends the
    stream: what is wrong with it comes back."""
    try:
        with suppress(*BROKEN, grpc.aio.AioRpcError):
            async for request in requests:
                await stream.write(request)
            await stream.done_writing()
    except CascadeError as refused:
        stream.cancel()
        return refused
    return None


def headers(call: Call) -> tuple[tuple[str, str], ...]:
    """Who calls, as the owner has to see it too."""
    known = tuple((name, call.metadata[name]) for name in PASSED_ON if name in call.metadata)
    return (*known, (FORWARDED, "1"))


def is_changing_hands(error: RemoteError) -> bool:
    """Whether the session's owner is gone or about to be: who asks again soon finds the next one."""
    return error.is_lost or error.reason in CHANGING


def check_not_forwarded(call: Call) -> None:
    """Raise NotReady where two gateways would send a call back and forth."""
    if FORWARDED in call.metadata:
        raise NotReady("the session is changing hands; try again")
