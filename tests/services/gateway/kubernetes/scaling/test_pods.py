"""What a gateway takes its pods for, and when it may give a number at all. Time is injected."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cascade.v1 import common_pb2
from cascade_core.config import make
from services.gateway.base.settings import GatewaySettings, ScalerSettings
from services.gateway.kubernetes.scaling.component import Component, Sizes
from services.gateway.kubernetes.scaling.demand import PodLoad
from services.gateway.kubernetes.scaling.pods import STARTS_AGAIN_S, Pods
from services.gateway.kubernetes.scaling.scaler import Scaler
from services.gateway.peers.endpoints import Endpoint
from services.gateway.peers.peer import Peer
from services.gateway.placement.admission import Admission
from services.gateway.placement.needs import Needs
from tests.services.support.fake_peers import (
    DRAINING,
    READY,
    RESTARTING,
    FakePool,
    decoder_status,
    stage_status,
)

STARTING, UNHEALTHY = common_pb2.SERVING_STATE_STARTING, common_pb2.SERVING_STATE_UNHEALTHY
SETTLE_S, REPLACE_S, WINDOW_S = 30.0, 60.0, 300.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class ListedPool(FakePool):
    """A pool whose list of addresses a test makes up too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.is_listed = True
        self.leaving: dict[str, Peer[Any]] = {}

    def unlist(self, address: str) -> None:
        self.leaving[address] = self.peers.pop(address)


class World:
    """Stages and decoders, admission to them and a scaler without others."""

    def __init__(self, **scaler: Any) -> None:
        self.clock = Clock()
        self.stages, self.decoders = ListedPool("stage"), ListedPool("decoder")
        pools: Any = (self.stages, self.decoders)
        self.admission = Admission(make(GatewaySettings, {}), *pools, self.clock)
        section = make(ScalerSettings, {"settle_s": SETTLE_S, "replace_after_s": REPLACE_S} | scaler)
        self.pods = {
            pool.kind: Pods(pool, self.admission.ledger(pool.kind), REPLACE_S, self.clock) for pool in pools
        }
        sizes = {"stage": Sizes(section.warm_stage_sessions, 2), "decoder": Sizes(0, 8)}
        components = [
            Component(pool.kind, self.pods[pool.kind], sizes[pool.kind], WINDOW_S, 0.1, self.clock)
            for pool in pools
        ]
        self.scaler = Scaler(section, self.admission, components, None, self.clock)

    def stage(self, address: str, **fields: Any) -> None:
        self.stages.report(address, stage_status(**fields))

    def decoder(self, address: str, **fields: Any) -> None:
        self.decoders.report(address, decoder_status(**fields))

    def look(self) -> list[PodLoad]:
        return self.pods["stage"].look()

    def desired(self, kind: Any = "stage") -> int | None:
        self.scaler.look()
        return self.scaler.desired(kind)

    def queue(self, session: str) -> Any:
        return self.admission.enqueue(Needs(session=session, tenant="t", model="demo"))


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.admission.close()


def test_a_ready_pod_offers_its_places(world: World) -> None:
    world.stage("s1", max_sessions=4, num_sessions=3)
    assert world.look() == [PodLoad(3, 4)]


@pytest.mark.parametrize("state", [STARTING, RESTARTING, DRAINING, UNHEALTHY])
def test_no_other_state_offers_places(world: World, state: int) -> None:
    world.stage("s1", max_sessions=4, num_sessions=1, state=state)
    assert world.look() == [PodLoad(1, 0)]


async def test_a_place_counts_from_its_grant(world: World) -> None:
    world.stage("s1", max_sessions=4, num_sessions=1)
    world.decoder("d1")
    await world.queue("a").wait()
    assert world.look() == [PodLoad(2, 4)], "before the stage reports it"


@pytest.mark.parametrize("state", [RESTARTING, DRAINING, UNHEALTHY, None])
def test_a_pod_that_stays_away_is_out(world: World, state: int | None) -> None:
    world.stage("s1")
    world.look()
    if state is None:
        world.stages.lose("s1")
    else:
        world.stage("s1", state=state)
    assert not world.look()[0].is_out
    world.clock.now += REPLACE_S - 1
    assert not world.look()[0].is_out
    world.clock.now += 1
    assert world.look()[0].is_out
    world.stage("s1")
    assert not world.look()[0].is_out
    world.stages.lose("s1")
    world.clock.now += REPLACE_S - 1
    assert not world.look()[0].is_out, "the time begins anew"


def test_a_pod_that_starts_again_and_again_is_out(world: World) -> None:
    world.stage("s1")
    world.look()
    world.stages.lose("s1")
    world.look()
    world.clock.now += REPLACE_S - 1
    world.stage("s1", state=STARTING)
    assert not world.look()[0].is_out
    world.clock.now += STARTS_AGAIN_S - REPLACE_S
    assert not world.look()[0].is_out
    world.clock.now += 1
    assert world.look()[0].is_out
    world.stage("s1")
    assert not world.look()[0].is_out


def test_a_pod_that_starts_is_not_out_however_long_it_takes(world: World) -> None:
    world.stage("s1", state=STARTING, max_sessions=0)
    world.look()
    world.stages.lose("s1")
    world.stages.peers["s2"] = Peer("s2", None)  # type: ignore[arg-type]
    world.look()
    world.stage("s1", state=STARTING, max_sessions=0)
    for _ in range(10):
        world.clock.now += REPLACE_S
        assert world.look() == [PodLoad(), PodLoad()]


def test_a_new_gateway_finds_a_quarantined_pod(world: World) -> None:
    world.stage("s1", state=UNHEALTHY, num_sessions=2)
    world.look()
    world.clock.now += REPLACE_S
    assert world.look() == [PodLoad(2, 0, is_out=True)]


def test_a_pod_that_terminates_is_no_replica(world: World) -> None:
    world.stage("s1", num_sessions=2)
    world.look()
    world.stages.peers["s1"].notice(Endpoint("s1", is_terminating=True))
    world.stage("s1", num_sessions=2, state=DRAINING)
    world.clock.now += 10 * REPLACE_S
    assert world.look() == [PodLoad(2, 0, is_leaving=True)]


def test_a_pod_that_is_not_listed_any_more_is_no_replica(world: World) -> None:
    world.stage("s1", num_sessions=2)
    world.stages.unlist("s1")
    assert world.look() == [PodLoad(2, 4, is_leaving=True)]
    assert world.desired() == 2, "its two sessions and the spare place, two for each pod"


def test_nothing_is_asked_for_before_anybody_knows_the_pods(world: World) -> None:
    world.stages.is_listed = False
    world.clock.now += 1000 * SETTLE_S
    assert world.desired() is None
    world.stages.is_listed = True
    assert world.desired() == 1


def test_nothing_is_asked_for_before_all_pods_have_reported(world: World) -> None:
    world.stage("s1", num_sessions=4)
    world.stages.peers["s2"] = Peer("s2", None)  # type: ignore[arg-type]
    assert world.desired() is None
    assert world.desired("decoder") == 0, "nobody is listed there"
    world.stage("s2", num_sessions=4)
    assert world.desired() == 3


async def test_a_pod_that_is_listed_later_is_not_waited_for(world: World) -> None:
    world.stage("s1", max_sessions=2, num_sessions=2)
    assert world.desired() == 2
    world.stages.peers["s2"] = Peer("s2", None)  # type: ignore[arg-type]
    claims = [world.queue(f"s{number}") for number in range(5)]
    assert world.desired() == 4, "five that wait and the spare place, two for each pod"
    for claim in claims:
        claim.cancel()


def test_a_silent_pod_is_not_waited_for_without_end(world: World) -> None:
    world.stage("s1", num_sessions=4)
    world.stages.peers["s2"] = Peer("s2", None)  # type: ignore[arg-type]
    world.clock.now += SETTLE_S - 1
    assert world.desired() is None
    world.clock.now += 1
    assert world.desired() == 2
    world.stages.peers["s3"] = Peer("s3", None)  # type: ignore[arg-type]
    assert world.desired() == 2, "known once, known for good"


async def test_the_queue_asks_for_both(world: World) -> None:
    claims = [world.queue(f"s{number}") for number in range(5)]
    assert (world.desired("stage"), world.desired("decoder")) == (3, 1)
    world.stage("s1", max_sessions=8)
    assert world.desired("stage") == 3, "the wish of a moment ago"
    world.clock.now += WINDOW_S + 1
    assert world.desired("stage") == 1
    for claim in claims:
        claim.cancel()


async def test_what_a_pod_offered_is_remembered_when_all_are_gone(world: World) -> None:
    world.stage("s1", max_sessions=6)
    assert world.desired() == 1
    world.stages.drop("s1")
    claims = [world.queue(f"s{number}") for number in range(11)]
    assert world.desired() == 2
    for claim in claims:
        claim.cancel()


async def test_a_move_counts_once_and_a_recovery_too(world: World) -> None:
    """A session that moves is still counted where it is; one that lost its place is counted nowhere else."""
    world.stage("s1", max_sessions=2, num_sessions=2, state=DRAINING)
    world.decoder("d1", max_sessions=50)
    wishes = [Needs(session=f"m{number}", tenant="t", model="demo") for number in range(2)]
    moves = [start(world.admission.stage(wish, {"s1"})) for wish in wishes]
    await settle()
    assert world.admission.num_urgent == 2
    assert world.desired() == 1 + 2, "the draining pod, and two for two sessions and the spare place"
    lost = start(world.admission.stage(replace(wishes[0], session="r")))
    await settle()
    assert world.desired() == 1 + 2, "four places: two that move, one recovery, one spare"
    others = [start(world.admission.stage(replace(wishes[0], session=f"r{number}"))) for number in range(2)]
    await settle()
    assert world.desired() == 1 + 3
    assert world.scaler.waiting.num_stageless == 3
    assert world.desired("decoder") == 0, "nobody needs a decoder"
    for task in (*moves, lost, *others):
        task.cancel()


async def test_one_more_pod_beside_many_is_asked_for_so_that_an_hpa_makes_it(world: World) -> None:
    for number in range(20):
        world.stage(f"s{number}", max_sessions=2, num_sessions=2, state=READY)
    assert world.desired() == 23
    for number in range(20, 23):
        world.stage(f"s{number}", max_sessions=2)
    assert world.desired() == 21, "so the HPA leaves the 23 as they are"


def start(waiting: Any) -> Any:
    return asyncio.ensure_future(waiting)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
