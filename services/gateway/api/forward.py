"""Calls for sessions that another gateway has: any gateway answers for all, by asking the owner."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import grpc

from cascade.v1 import session_pb2, session_pb2_grpc
from cascade_client.keep_status import keep_status
from cascade_core.errors import CascadeError
from services.common.call import Call
from services.common.channel import ChannelFactory
from services.common.errors import NotReady
from services.common.race import first_of, may_fail
from services.common.remote import RemoteError, remote_error
from services.common.streams import BROKEN
from services.gateway.base.settings import PeerSettings

FORWARDED = "cascade-forwarded"
"""Header of a forwarded call: a gateway that does not have the session either refuses it."""
PASSED_ON = ("authorization", "x-request-id", "traceparent", "tracestate")
CHANGING = ("DRAINING", "NOT_READY")
MAX_CHANNELS = 64


class Forwarder:
    """Channels to other gateways, opened when first needed."""

    def __init__(self, settings: PeerSettings) -> None:
        self._channels = ChannelFactory(settings.grpc(), settings.credentials())
        self._open: OrderedDict[str, tuple[object, grpc.aio.Channel]] = OrderedDict()
        """By address, each with the credentials that it was opened with."""
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """This gateway goes away: ask the clients of forwarded streams to attach elsewhere. Until they have,
        the streams go on."""
        self._leaving.set()

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
        """The owner's stream. Raises RemoteError, and what `requests` raises. No request is read before the
        first response, so until then the same requests can be sent elsewhere."""
        stream = self._stub(address).Connect(metadata=headers(call))
        keep_status(stream)
        sending: asyncio.Task[CascadeError | None] | None = None
        try:
            with suppress(*BROKEN):  # reading tells why
                await stream.write(attach)
            async with aclosing(self._responses(stream)) as responses:
                async for response in responses:
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

    async def _responses(self, stream: Any) -> AsyncGenerator[session_pb2.ConnectResponse, None]:
        """What the owner sends; once this gateway leaves, `reconnect` comes between two of its messages."""
        response = await stream.read()
        leaving: asyncio.Future[Any] = asyncio.ensure_future(self._leaving.wait())
        reading: asyncio.Future[Any] = leaving
        is_told = False
        try:
            while response is not grpc.aio.EOF:
                yield response
                reading = asyncio.ensure_future(stream.read())
                may_fail(reading)
                if not is_told:
                    await first_of((reading, leaving))
                    if leaving.done():
                        is_told = True
                        yield session_pb2.ConnectResponse(reconnect=session_pb2.ConnectResponse.Reconnect())
                response = await reading
        finally:
            leaving.cancel()
            reading.cancel()

    async def close(self) -> None:
        for _, channel in self._open.values():
            await channel.close()

    def _stub(self, address: str) -> Any:
        credentials = self._channels.credentials
        opened_with, channel = self._open.pop(address, (None, None))
        if channel is None or opened_with is not credentials:
            channel = self._channels.open(address)
        self._open[address] = credentials, channel
        if len(self._open) > MAX_CHANNELS:
            self._open.popitem(last=False)  # its streams keep it until they end
        return session_pb2_grpc.SessionServiceStub(channel)


async def send(stream: Any, requests: AsyncIterator[session_pb2.ConnectRequest]) -> CascadeError | None:
    """Pass a client's messages on; once the stream is over they are dropped. One that is not valid ends the
    stream: returns what is wrong with it."""
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
    """Who calls, for the owner to see."""
    known = tuple((name, call.metadata[name]) for name in PASSED_ON if name in call.metadata)
    return (*known, (FORWARDED, "1"))


def is_changing_hands(error: RemoteError) -> bool:
    """Whether the session's owner is gone or about to be: whoever asks again soon finds the next one."""
    return error.is_lost or error.reason in CHANGING


def check_not_forwarded(call: Call) -> None:
    """Raise NotReady where two gateways would send a call back and forth."""
    if FORWARDED in call.metadata:
        raise NotReady("the session is changing hands; try again")
