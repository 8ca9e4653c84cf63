"""A stream to a stage or decoder whose channel is closed under it: another pod has the address."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from cascade.v1.stage_pb2 import StageStatus
from services.gateway.peers.peer import Peer
from services.gateway.peers.stream import StreamLost, converse

WAIT_S = 20.0


async def test_a_channel_that_closes_is_a_loss_and_no_cancellation() -> None:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    has_come = asyncio.Event()

    async def read() -> None:
        while await call.read() is not grpc.aio.EOF:
            has_come.set()

    peer: Peer[StageStatus] = Peer(f"127.0.0.1:{port}", channel)
    peer.report(StageStatus())
    try:
        async with asyncio.timeout(WAIT_S):
            conversation = asyncio.create_task(converse(call, peer, read()))
            await has_come.wait()
            await channel.close()
            with pytest.raises(StreamLost, match="channel"):
                await conversation
    finally:
        await server.stop(0)
