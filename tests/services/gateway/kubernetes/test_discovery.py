"""A whole gateway that finds its stages and decoders in a cluster, and outlives the cluster's API server."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from cascade.v1 import common_pb2, session_pb2
from services.gateway.app.assembly import running
from services.gateway.kubernetes.deletion_cost import ANNOTATION
from tests.paths import ROOT
from tests.services.support.cluster_support import kubernetes_settings
from tests.services.support.fake_api_server import FakeApiServer, endpoint_object, pod_object, slice_object
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_machine import Machine
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import (
    AttachedStream,
    Tenant,
    Town,
    gateway_settings,
    open_channel,
    until,
)


def publish(server: FakeApiServer, machine: Machine, pod: str, *, terminating: bool = False) -> None:
    """The pod's endpoint, in a slice of its own."""
    service = "decoder" if isinstance(machine, FakeDecoder) else "stage"
    host, _, port = machine.address.partition(":")
    entry = endpoint_object(host, pod, ready=not terminating, terminating=terminating)
    server.put("endpointslices", slice_object(f"{service}-{pod}", entry, service=service, port=int(port)))
    if ("pods", pod) not in server.objects:
        server.put("pods", pod_object(pod))


def pod_of(machine: Machine) -> str:
    kind = "decoder" if isinstance(machine, FakeDecoder) else "stage"
    return f"{kind}-{machine.address.rpartition(':')[2]}"


@asynccontextmanager
async def cluster(
    stages: list[FakeStage], decoders: list[FakeDecoder], **kubernetes: Any
) -> AsyncIterator[tuple[Town, FakeApiServer]]:
    """All that runs, known to the gateway through the API alone."""
    server = FakeApiServer()
    try:
        await server.start()
        for machine in (*stages, *decoders):
            await machine.start()
            publish(server, machine, pod_of(machine))
        fields = {"decoder_service": "decoder", "idle_after_s": 0.0, **kubernetes}
        settings = replace(gateway_settings([], []), kubernetes=kubernetes_settings(server.url, **fields))
        async with running(settings) as (gateway, registry), open_channel(gateway.port) as channel:
            await until(lambda: all(machine.num_watchers for machine in (*stages, *decoders)))
            await until(lambda: registry.shared.admission.has_stages or not stages)
            yield Town(gateway, registry, stages, decoders, channel, Tenant(channel, None)), server
        assert not server.watches or await emptied(server)
    finally:
        await server.stop()
        for machine in (*stages, *decoders):
            await machine.kill()


async def emptied(server: FakeApiServer) -> bool:
    """The gateway has let go of its watches; the server learns of it when it writes."""
    server.bookmark()
    server.bookmark()
    await until(lambda: not server.watches)
    return True


def busy(machines: list[Any]) -> Any:
    """The one that has the session."""
    (found,) = (machine for machine in machines if machine.sessions)
    return found


def other(machines: list[Any], machine: Any) -> Any:
    (found,) = (each for each in machines if each is not machine)
    return found


async def more(stream: AttachedStream, number: int = 5) -> None:
    await stream.until_sequence(stream.sequences[-1] + number)


def assert_gapless(stream: AttachedStream) -> None:
    assert stream.sequences == list(range(1, len(stream.sequences) + 1))


@pytest.mark.parametrize("kind", ["stage", "decoder"])
async def test_a_session_moves_when_its_pod_is_told_to_go(kind: str) -> None:
    stages, decoders = [FakeStage(block_s=0.02) for _ in "ab"], [FakeDecoder() for _ in "ab"]
    machines: list[Any] = stages if kind == "stage" else decoders
    async with cluster(stages, decoders) as (place, server):
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            old = busy(machines)
            new = other(machines, old)
            publish(server, old, pod_of(old), terminating=True)
            await until(lambda: new.sessions and not old.sessions)
            await more(stream)
            assert [len(machine.streams) for machine in (old, new)] == [1, 1]
            done = await stream.first("recovery_done")
            assert done.cause == session_pb2.RECOVERY_CAUSE_MIGRATION
            later = await place.anybody.name()
            async with place.anybody.attached(later) as second:
                await second.until_segments(1)
            assert len(old.streams) == 1, "nobody new is placed there"
            assert_gapless(stream)


@pytest.mark.parametrize("first", ["api", "stage", "both"])
async def test_told_by_the_api_and_by_the_stage_a_session_moves_once(first: str) -> None:
    stages = [FakeStage(block_s=0.02) for _ in "ab"]
    async with cluster(stages, [FakeDecoder()]) as (place, server):
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            old = busy(stages)
            new = other(stages, old)
            peer = place.registry.shared.admission._stages._pool.peers[old.address]
            if first == "stage":
                old.begin_drain(60.0)
                await more(stream, 1)
            publish(server, old, pod_of(old), terminating=True)
            if first != "stage":
                await until(lambda: peer.is_terminating)
                old.begin_drain(60.0)
            await until(lambda: new.sessions and not old.sessions)
            await until(lambda: peer.is_terminating)
            await more(stream)
            assert [len(machine.streams) for machine in (old, new)] == [1, 1]
            assert len(stream.all("recovery_started")) == len(stream.all("recovery_done")) == 1
            assert_gapless(stream)


async def test_a_session_whose_pod_goes_stays_until_there_is_another_place() -> None:
    stages = [FakeStage(block_s=0.02)]
    async with cluster(stages, [FakeDecoder()]) as (place, server):
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            publish(server, stages[0], pod_of(stages[0]), terminating=True)
            await until(lambda: place.registry.shared.admission.num_urgent == 1)
            await more(stream)
            async with FakeStage(block_s=0.02) as late:
                publish(server, late, "late")
                await until(lambda: late.sessions)
                await more(stream)
                assert_gapless(stream)
                await stream.cut()


async def test_sessions_go_on_while_the_api_server_is_away() -> None:
    stages = [FakeStage(block_s=0.02) for _ in "ab"]
    async with cluster(stages, [FakeDecoder()], deletion_cost=True, events=True) as (place, server):
        assert place.metric("cascade_cluster_connected", kind="stage") == 1
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            await server.stop()
            await until(lambda: place.metric("cascade_cluster_connected", kind="stage") == 0)
            await more(stream)
            old = busy(stages)
            await old.kill()
            await until(lambda: other(stages, old).sessions)
            await more(stream)
            later = await place.anybody.name()
            async with place.anybody.attached(later) as second:
                await second.until_segments(2)
            server.remove("endpointslices", f"stage-{pod_of(old)}")
            await server.start()
            await until(lambda: place.metric("cascade_cluster_connected", kind="stage") == 1)
            await until(lambda: old.address not in place.registry.shared.admission._stages._pool.peers)
            await more(stream)
            assert_gapless(stream)


async def test_a_pod_at_the_address_of_another_is_another_server() -> None:
    stages = [FakeStage(block_s=0.02)]
    async with cluster(stages, [FakeDecoder()]) as (place, server):
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            peers = place.registry.shared.admission._stages._pool.peers
            before = peers[stages[0].address]
            server.put("pods", pod_object("next"))
            host, _, port = stages[0].address.partition(":")
            entry = endpoint_object(host, "next")
            server.put("endpointslices", slice_object(f"stage-{pod_of(stages[0])}", entry, port=int(port)))
            await until(lambda: peers[stages[0].address] is not before)
            await stream.first("recovery_done")
            await more(stream)
            assert before.is_gone
            assert_gapless(stream)


async def test_busy_pods_are_spared_and_broken_ones_told_of() -> None:
    stages, decoders = [FakeStage(block_s=0.02) for _ in "ab"], [FakeDecoder()]
    async with cluster(stages, decoders, deletion_cost=True, events=True) as (place, server):

        def cost(machine: Any) -> Any:
            return server.objects["pods", pod_of(machine)]["metadata"].get("annotations", {}).get(ANNOTATION)

        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            old = busy(stages)
            await until(lambda: cost(old) == cost(decoders[0]) == "1000")
            assert cost(other(stages, old)) is None
        await place.anybody.delete(name)
        await until(lambda: cost(old) is None and cost(decoders[0]) is None)
        old.set_state(common_pb2.SERVING_STATE_QUARANTINED)
        await until(lambda: server.of("create"))
        await until(lambda: any(kind == "events" for kind, _ in server.objects))
        (event,) = (item for (kind, _), item in server.objects.items() if kind == "events")
        assert (event["regarding"]["name"], event["reason"]) == (pod_of(old), "GpuQuarantined")


async def test_without_switches_pods_are_left_alone() -> None:
    stages = [FakeStage(block_s=0.02)]
    async with cluster(stages, [FakeDecoder()]) as (place, server):
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            stages[0].set_state(common_pb2.SERVING_STATE_UNHEALTHY)
            await more(stream)
        assert {call.resource for call in server.calls} == {"endpointslices"}


async def test_a_gateway_with_a_list_of_its_own_spends_nothing_on_kubernetes() -> None:
    code = """
import asyncio, sys
from services.gateway.app.assembly import running
from tests.services.support.gateway_support import gateway_settings

async def main():
    async with running(gateway_settings(["127.0.0.1:1"], ["127.0.0.1:2"])):
        assert "kubernetes" not in sys.modules

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT)
    async with asyncio.timeout(60):
        assert await process.wait() == 0


async def test_a_gateway_starts_while_the_api_server_is_away_and_queues() -> None:
    async with cluster([], []) as (place, server):
        await server.stop()
        name = await place.anybody.name()
        async with FakeStage() as stage, FakeDecoder() as decoder:
            publish(server, stage, "s")
            publish(server, decoder, "d")
            await server.start()
            async with place.anybody.attached(name) as stream:
                await stream.until_segments(3)
                await stream.cut()
            await asyncio.gather(stage.kill(), decoder.kill())
