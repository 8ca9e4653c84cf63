"""Writes that meet the end of a stream: whoever writes learns why the server ended it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from cascade.v1 import session_pb2, session_pb2_grpc
from cascade.v1.stage_pb2 import StageStatus
from cascade_client.keep_status import keep_status
from services.common import errors
from services.common.remote import RemoteError, remote_error
from services.common.streams import BROKEN
from services.gateway.api.forward import Forwarder
from services.gateway.base.settings import PeerSettings
from services.gateway.peers.peer import Peer
from services.gateway.peers.stream import StreamLost, converse
from tests.services.support.echo import WAIT_S, Echo, chat, serving

NUM_STREAMS = 20
"""Without `keep_status`, most of them lose the reason."""
REFUSAL = errors.Fenced("moved on", epoch=7)
Request = session_pb2.ConnectRequest
Response = session_pb2.ConnectResponse


class Owner(session_pb2_grpc.SessionServiceServicer):
    """Answers the first message, and refuses at the second."""

    async def Connect(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Response]:
        await anext(requests)
        yield Response(attached=Response.Attached())
        await anext(requests)
        raise REFUSAL


async def flood(call: Any) -> None:
    """Writes until a write fails: the server refuses at the first of these."""
    while True:
        await call.write(StringValue(value="fail"))


async def plain(channel: grpc.aio.Channel, address: str) -> RemoteError:
    call = chat(channel)
    keep_status(call)
    with suppress(*BROKEN, grpc.aio.AioRpcError):
        await flood(call)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return remote_error(caught.value)


async def to_a_peer(channel: grpc.aio.Channel, address: str) -> RemoteError:
    call = chat(channel)
    peer: Peer[StageStatus] = Peer(address, channel)
    peer.report(StageStatus())
    with pytest.raises(StreamLost) as caught:
        await converse(call, peer, call.read(), flood(call))
    assert caught.value.error, caught.value
    return caught.value.error


async def forwarded(channel: grpc.aio.Channel, address: str) -> RemoteError:
    async def requests() -> AsyncIterator[Request]:
        while True:
            yield Request(ack=Request.Ack(sequence=1))

    forwarder = Forwarder(PeerSettings())
    call: Any = SimpleNamespace(metadata={})
    attach = Request(attach=Request.Attach(name="sessions/" + "a" * 16))
    try:
        with pytest.raises(RemoteError) as caught:
            assert [_ async for _ in forwarder.connect(address, call, attach, requests())]
        return caught.value
    finally:
        await forwarder.close()


@pytest.mark.parametrize("ended_by", [plain, to_a_peer, forwarded])
async def test_a_write_that_meets_the_refusal_learns_its_reason(
    ended_by: Callable[[grpc.aio.Channel, str], Coroutine[Any, Any, RemoteError]],
) -> None:
    echo = Echo(REFUSAL)

    def register(server: grpc.aio.Server) -> None:
        echo.register(server)
        session_pb2_grpc.add_SessionServiceServicer_to_server(Owner(), server)

    async with serving(echo, service={"register": register}) as (server, channel), asyncio.timeout(WAIT_S):
        found = [await ended_by(channel, f"127.0.0.1:{server.port}") for _ in range(NUM_STREAMS)]
    assert [error.reason for error in found] == ["FENCED"] * NUM_STREAMS
