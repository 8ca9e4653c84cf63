"""Deletion costs: written on busy<->idle alone, once for all gateways, and nobody waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from structlog.testing import capture_logs

from services.gateway.kubernetes.chores import Chores
from services.gateway.kubernetes.deletion_cost import ANNOTATION, DeletionCosts
from services.gateway.peers.endpoints import Pod
from tests.services.support.cluster_support import calling
from tests.services.support.fake_api_server import FakeApiServer, pod_object
from tests.services.support.fake_clock import FakeClock
from tests.services.support.fake_peers import FakePool, decoder_status, stage_status

IDLE_S = 30.0
SPREAD_S = 1.0


class Gateway:
    """What one gateway sees and writes."""

    def __init__(self, api: Any, clock: FakeClock) -> None:
        self.clock = clock
        self.pool = FakePool()
        self.chores = Chores("deletion costs", clock)
        self.costs = DeletionCosts(api, self.chores, clock, IDLE_S)
        self.costs.follow(self.pool)  # type: ignore[arg-type]

    def report(self, name: str, num_sessions: int, status: Callable[..., Any] = stage_status) -> None:
        self.pool.report(f"{name}:1", status(num_sessions=num_sessions), Pod(name, f"uid-{name}"))


@asynccontextmanager
async def gateways(server: FakeApiServer, number: int = 1, **fields: Any) -> AsyncIterator[list[Gateway]]:
    """They share a clock."""
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        found = [
            Gateway(await stack.enter_async_context(calling(server, **fields)), clock) for _ in range(number)
        ]
        tasks = [asyncio.create_task(each.chores.run()) for each in found]
        try:
            yield found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def cost(server: FakeApiServer, name: str) -> str | None:
    found: str | None = server.objects["pods", name]["metadata"].get("annotations", {}).get(ANNOTATION)
    return found


async def settled(*places: Gateway) -> None:
    """Nothing is due, and nothing is being done."""
    async with asyncio.timeout(30):
        while not all(place.chores.is_idle for place in places):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def passed(seconds: float, *places: Gateway) -> None:
    """So long, and all that was due is done."""
    places[0].clock.advance(seconds)
    await settled(*places)


async def test_a_pod_that_gets_its_first_session_is_marked_and_no_report_after_it_matters() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("a", kept="x"))
        for num_sessions in (1, 2, 3, 1):
            gateway.report("a", num_sessions)
        await passed(SPREAD_S, gateway)
        assert server.objects["pods", "a"]["metadata"]["annotations"] == {"kept": "x", ANNOTATION: "1000"}
        gateway.report("a", 4)
        await passed(100, gateway)
        assert [call.verb for call in server.calls] == ["get", "patch"]


async def test_a_pod_without_sessions_loses_its_mark_after_a_while() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("a"))
        gateway.report("a", 1)
        await passed(SPREAD_S, gateway)
        gateway.report("a", 0)
        await passed(IDLE_S, gateway)
        assert cost(server, "a") == "1000"
        await passed(SPREAD_S, gateway)
        assert cost(server, "a") is None


async def test_flapping_writes_nothing() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("a"))
        gateway.report("a", 1)
        await passed(SPREAD_S, gateway)
        for _ in range(20):
            gateway.report("a", 0)
            await passed(IDLE_S - 1, gateway)
            gateway.report("a", 1)
            await passed(1, gateway)
        assert len(server.calls) == 2


async def test_a_pod_that_was_never_busy_is_looked_at_once_and_never_written() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("a"))
        gateway.report("a", 0)
        await passed(100, gateway)
        gateway.report("a", 0)
        await passed(100, gateway)
        assert [call.verb for call in server.calls] == ["get"]


async def test_a_gateway_that_starts_corrects_what_is_wrong_once() -> None:
    async with FakeApiServer() as server:
        server.put("pods", pod_object("busy"))
        server.put("pods", pod_object("idle", **{ANNOTATION: "1000"}))
        server.put("pods", pod_object("right", **{ANNOTATION: "1000"}))
        async with gateways(server) as (gateway,):
            for name, num_sessions in (("busy", 1), ("idle", 0), ("right", 1)):
                gateway.report(name, num_sessions)
            await passed(100, gateway)
            assert [cost(server, name) for name in ("busy", "idle", "right")] == ["1000", None, "1000"]
            assert sorted(call.name for call in server.of("patch")) == ["busy", "idle"]


async def test_several_gateways_write_once() -> None:
    async with FakeApiServer() as server, gateways(server, 3) as places:
        server.put("pods", pod_object("a"))
        for delay_s, place in zip((0.2, 0.5, 0.9), places, strict=True):
            place.clock.jitter = lambda low, high, delay_s=delay_s: delay_s  # type: ignore[method-assign]
            place.report("a", 1)
        for _ in range(4):
            await passed(0.3, *places)
        assert len(server.of("get")) == 3
        assert len(server.of("patch")) == 1


async def test_decoders_alike() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("d"))
        gateway.report("d", 2, decoder_status)
        await passed(SPREAD_S, gateway)
        assert cost(server, "d") == "1000"


async def test_what_failed_is_tried_again_with_the_wish_of_the_moment() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("a", **{ANNOTATION: "1000"}))
        server.put("pods", pod_object("b"))
        await server.stop()
        gateway.report("b", 1)
        for _ in range(5):
            await passed_while_failing(gateway, 40)
        gateway.report("a", 0)
        gateway.report("a", 1)
        assert len(gateway.chores) <= 2, "one wish per pod, however long it lasts"
        await server.start()
        await until_done(gateway)
        assert (cost(server, "a"), cost(server, "b")) == ("1000", "1000")
        assert [call.name for call in server.of("patch")] == ["b"]


async def test_refusals_are_waited_out_and_those_of_one_pod_hold_up_no_other() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        for name in ("a", "b"):
            server.put("pods", pod_object(name))
        server.refuse(403, verb="patch", times=2)
        server.refuse(429, verb="get", headers={"Retry-After": "3"})
        gateway.report("a", 1)
        gateway.report("b", 1)
        await until_done(gateway)
        assert (cost(server, "a"), cost(server, "b")) == ("1000", "1000")


async def test_a_pod_that_is_gone_or_another_by_now_is_let_be() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("b") | {"metadata": {"name": "b", "uid": "another"}})
        gateway.report("a", 1)
        gateway.report("b", 1)
        await passed(100, gateway)
        assert len(server.of("get")) == 2
        assert not server.of("patch")
        assert not len(gateway.chores)


async def test_a_pod_that_becomes_another_before_the_patch_is_let_be() -> None:
    class Replaced(FakeApiServer):
        def _get(self, call: Any) -> Any:
            answer = super()._get(call)
            self.put("pods", pod_object("a") | {"metadata": {"name": "a", "uid": "another"}})
            return answer

    async with Replaced() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("a"))
        gateway.report("a", 1)
        with capture_logs() as logs:
            await passed(100, gateway)
        assert len(server.of("patch")) == 1
        assert cost(server, "a") is None
        assert not logs
        assert not len(gateway.chores)


async def test_a_patch_that_met_another_writer_is_made_again() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("a"))
        server.refuse(409, verb="patch", times=2)
        gateway.report("a", 1)
        await until_done(gateway)
        assert cost(server, "a") == "1000"


async def test_pods_that_leave_are_not_written_to() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        for name in ("a", "b", "c"):
            server.put("pods", pod_object(name))
            gateway.report(name, 1)
        gateway.pool.drop("a:1")
        gateway.pool.terminate("b:1")
        gateway.pool.lose("c:1")
        await passed(100, gateway)
        assert [call.name for call in server.of("patch")] == ["c"], "one that is lost may be busy still"


async def test_a_server_that_never_answers_holds_nothing_up() -> None:
    async with FakeApiServer() as server, gateways(server, request_timeout_s=0.2) as (gateway,):
        for name in ("a", "b"):
            server.put("pods", pod_object(name))
            gateway.report(name, 1)
        server.is_silent = True
        gateway.clock.advance(SPREAD_S)
        await server.until(lambda: len(server.calls) == 1)
        gateway.report("a", 0)  # taken at once, and what fails then does not replace it
        async with asyncio.timeout(30):
            while len(server.calls) < 2:
                await passed_while_failing(gateway, 5)
        server.is_silent = False
        await until_done(gateway)
        assert (cost(server, "a"), cost(server, "b")) == (None, "1000")


async def test_annotations_that_make_no_sense_are_none() -> None:
    async with FakeApiServer() as server, gateways(server) as (gateway,):
        server.put("pods", pod_object("a"))
        server.objects["pods", "a"]["metadata"]["annotations"] = None
        gateway.report("a", 1)
        await passed(SPREAD_S, gateway)
        assert cost(server, "a") == "1000"


async def passed_while_failing(gateway: Gateway, seconds: float) -> None:
    """Long enough for one more attempt to fail."""
    gateway.clock.advance(seconds)
    await asyncio.sleep(0.01)


async def until_done(gateway: Gateway) -> None:
    """As long as it takes."""
    async with asyncio.timeout(30):
        while len(gateway.chores) or not gateway.chores.is_idle:
            await passed_while_failing(gateway, 5)
