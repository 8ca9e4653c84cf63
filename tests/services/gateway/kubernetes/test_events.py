"""Events on quarantined pods: one per pod, process and reason, whoever sees it first."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from cascade.v1 import common_pb2
from services.gateway.kubernetes.chores import Chores
from services.gateway.kubernetes.quarantine import INTERVAL_S, SPREAD_S, QuarantineEvents
from services.gateway.peers.endpoints import Pod
from tests.services.support.cluster_support import calling
from tests.services.support.fake_api_server import NAMESPACE, FakeApiServer
from tests.services.support.fake_clock import FakeClock
from tests.services.support.fake_peers import FakePool, decoder_status, stage_status

QUARANTINED, UNHEALTHY = common_pb2.SERVING_STATE_QUARANTINED, common_pb2.SERVING_STATE_UNHEALTHY


class Gateway:
    """What one gateway sees and tells."""

    def __init__(self, api: Any, clock: FakeClock, name: str) -> None:
        self.clock = clock
        self.pool = FakePool()
        self.chores = Chores("events", clock)
        QuarantineEvents(api, self.chores, clock, name).follow(self.pool)  # type: ignore[arg-type]

    def report(self, name: str = "a", **status: Any) -> None:
        self.pool.report(f"{name}:1", stage_status(**status), Pod(name, f"uid-{name}"))

    def quarantine(self, message: str, name: str = "a", **status: Any) -> None:
        self.report(name, **{"state": QUARANTINED, "message": message, **status})


@asynccontextmanager
async def gateways(server: FakeApiServer, number: int = 1) -> AsyncIterator[list[Gateway]]:
    """They share a clock."""
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(calling(server)) for _ in range(number)]
        found = [Gateway(api, clock, f"gateway-{at}") for at, api in enumerate(apis)]
        tasks = [asyncio.create_task(each.chores.run()) for each in found]
        try:
            yield found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def passed(seconds: float, *places: Gateway) -> None:
    """So long, and all that was due is done."""
    places[0].clock.advance(seconds)
    async with asyncio.timeout(30):
        while not all(place.chores.is_idle for place in places):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def notes(server: FakeApiServer) -> list[str]:
    return [item["note"] for (kind, _), item in server.objects.items() if kind == "events"]


async def test_a_quarantine_becomes_an_event_on_the_pod() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        gateway.report()
        gateway.quarantine("GPU 2: Xid 79")
        await passed(SPREAD_S, gateway)
        ((_, name),) = server.objects
        event = server.objects["events", name]
        assert name.startswith("a.")
        assert {key: event[key] for key in ("type", "reason", "action", "note", "regarding")} == {
            "type": "Warning",
            "reason": "GpuQuarantined",
            "action": "Quarantine",
            "note": "GPU 2: Xid 79",
            "regarding": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": NAMESPACE,
                "name": "a",
                "uid": "uid-a",
            },
        }
        assert (event["reportingController"], event["reportingInstance"]) == ("cascade/gateway", "gateway-0")


async def test_a_reason_is_told_once_however_its_numbers_move() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        for seconds in (31, 32, 140):
            gateway.quarantine(f"the GPU driver has not answered for {seconds} s")
            await passed(INTERVAL_S + 1, gateway)
        assert notes(server) == ["the GPU driver has not answered for 31 s"]
        assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("GPU 0: Xid 79", "GPU 1: Xid 79"),
        ("GPU 0: Xid 79", "GPU 0: Xid 48"),
        ("GPU 10: Xid 79", "GPU 11: Xid 79"),
        ("GPU 0: 3 uncorrected ECC errors", "no ticks for 31 s"),
    ],
)
async def test_another_reason_is_another_event_but_not_at_once(before: str, after: str) -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        gateway.quarantine(before)
        await passed(SPREAD_S, gateway)
        gateway.quarantine(after)
        await passed(INTERVAL_S - SPREAD_S, gateway)
        assert notes(server) == [before]
        await passed(SPREAD_S, gateway)
        assert notes(server) == [before, after]


async def test_a_pod_that_changes_its_mind_all_the_time_is_told_of_now_and_then() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        for second in range(300):
            gateway.quarantine(f"GPU {second % 7}: Xid 79")
            await passed(1, gateway)
        assert len(server.calls) == 5


async def test_what_comes_back_after_recovery_is_told_under_the_same_name() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        for _ in range(2):
            gateway.quarantine("GPU 0: Xid 79")
            await passed(INTERVAL_S + 1, gateway)
            gateway.report()
            await passed(INTERVAL_S + 1, gateway)
        assert len(server.calls) == 2
        assert len(server.objects) == 1
        gateway.quarantine("GPU 0: Xid 79", instance="two")
        await passed(INTERVAL_S + 1, gateway)
        assert len(server.objects) == 2, "a process started anew makes it news"


async def test_several_gateways_make_one() -> None:
    async with FakeApiServer() as server, gateways(server, 3) as places:
        for place in places:
            place.quarantine("GPU 0: Xid 79")
        await passed(SPREAD_S, *places)
        assert len(server.of("create")) == 3
        assert len(server.objects) == 1


async def test_states_of_a_healthy_life_are_no_news() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        for state in common_pb2.ServingState.values():
            if state not in (QUARANTINED, UNHEALTHY):
                gateway.report(state=state, message="so it goes")
        gateway.pool.lose("a:1")
        await passed(100, gateway)
        assert not server.calls


async def test_decoders_alike_and_what_passes_has_another_name() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        gateway.pool.report("d:1", decoder_status(state=UNHEALTHY, message="no blocks"), Pod("d", "uid-d"))
        await passed(SPREAD_S, gateway)
        ((_, name),) = server.objects
        assert server.objects["events", name]["reason"] == "Unhealthy"


async def test_notes_and_names_keep_the_bounds_of_the_api() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        gateway.quarantine("ä" * 512, name="p" * 253)
        gateway.quarantine("x" + "ä" * 700, name="q")
        await passed(SPREAD_S, gateway)
        assert sorted(len(note.encode()) for note in notes(server)) == [1023, 1024]


async def test_a_server_that_is_away_is_told_later() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        await server.stop()
        gateway.quarantine("GPU 0: Xid 79")
        gateway.quarantine("GPU 0: Xid 79", name="b")
        gateway.clock.advance(SPREAD_S)
        await asyncio.sleep(0.05)
        gateway.pool.drop("b:1")  # that it is gone makes it no less true
        await server.start()
        async with asyncio.timeout(30):
            while len(server.objects) < 2:
                gateway.clock.advance(5)
                await asyncio.sleep(0.01)
