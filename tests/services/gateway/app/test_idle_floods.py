"""A gateway with few descriptors, whose doors somebody crowds with connections that ask for nothing."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from cascade.v1 import session_pb2
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import WAIT_S, Tenant, open_channel, until_value
from tests.services.support.http_support import client
from tests.services.support.idle_lines import NUM_IDLE, few_descriptors, idle_lines
from tests.services.support.ports import free_port

THEM = "127.0.0.2"


@pytest.mark.parametrize(("at", "kind"), [("grpc", "preface"), ("http", "silent")])
async def test_sessions_begin_and_go_on_beside_idle_connections(at: str, kind: str) -> None:
    """More of them than there are descriptors, from another address, at either port; no clock ends them."""
    stage, decoder, ports = FakeStage(), FakeDecoder(), {"grpc": free_port(), "http": free_port()}
    async with asyncio.timeout(2 * WAIT_S), AsyncExitStack() as stack:
        for machine in (stage, decoder):
            await machine.start()
            stack.push_async_callback(machine.kill)
        variables = {
            "CASCADE_GRPC_PORT": str(ports["grpc"]),
            "CASCADE_HTTP_PORT": str(ports["http"]),
            "CASCADE_HTTP_HEADER_TIMEOUT_S": "600",
            "CASCADE_GATEWAY_STAGES": stage.address,
            "CASCADE_GATEWAY_DECODERS": decoder.address,
        }
        await stack.enter_async_context(few_descriptors("services.gateway", variables))
        us = Tenant(await stack.enter_async_context(open_channel(ports["grpc"])), None)
        web = await stack.enter_async_context(client(f"http://127.0.0.1:{ports['http']}"))
        await until_value(lambda: listening(us), bool)
        playing = await stack.enter_async_context(us.attached(await us.name()))
        await playing.until_segments(2)
        await stack.enter_async_context(idle_lines(kind, NUM_IDLE, ports[at], address=THEM))
        next_one = Tenant(await stack.enter_async_context(open_channel(ports["grpc"])), None)
        await until_value(lambda: listening(next_one), bool)  # a burst may refuse the first try
        begun = await stack.enter_async_context(next_one.attached(await next_one.name()))
        await begun.until_segments(2)
        assert (await web.get("/v1/sessions")).status_code == 200
        num_made = len(playing.segments)
        await playing.until_segments(num_made + 2)
        assert not playing.is_over


async def listening(tenant: Tenant) -> bool:
    found = await tenant.stub.ListModels(session_pb2.ListModelsRequest(), wait_for_ready=True, timeout=WAIT_S)
    return bool(found.models)
