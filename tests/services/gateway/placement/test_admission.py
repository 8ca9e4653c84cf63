"""Admission: who gets which place, in which order, and that no place is given twice or lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from cascade.v1 import common_pb2, session_pb2
from cascade_core.config import make
from cascade_core.errors import SessionClosed
from services.common.errors import QueueFull
from services.gateway.base.settings import GatewaySettings, PeerSettings
from services.gateway.peers.endpoints import StaticEndpoints
from services.gateway.peers.pool import Pool
from services.gateway.placement.admission import Admission
from services.gateway.placement.claims import Claim, Places
from services.gateway.placement.needs import Needs
from tests.services.support.fake_peers import (
    DRAINING,
    READY,
    RESTARTING,
    FakePeer,
    FakePool,
    decoder_status,
    serving,
    stage_status,
)

WAIT_S = 20.0
NVENC = common_pb2.VIDEO_ENCODER_NVENC
LOW, HIGH = session_pb2.PRIORITY_LOW, session_pb2.PRIORITY_HIGH
T = TypeVar("T")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    """Stages, decoders and the admission to them."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.stages, self.decoders = FakePool(), FakePool()
        self.last: Any = None
        self.admission = Admission(make(GatewaySettings, settings), self.stages, self.decoders, self.clock)

    def stage(self, address: str, **fields: Any) -> None:
        self.stages.report(address, stage_status(**fields))

    def decoder(self, address: str, **fields: Any) -> None:
        self.decoders.report(address, decoder_status(**fields))

    def advance(self, seconds: float) -> None:
        """Time passes; what the timer would do, a report sets off."""
        self.clock.now += seconds
        for address in list(self.stages.peers)[:1]:
            self.stages.report(address, self.stages.peers[address].status)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """One stage and one decoder with many places."""
    made = World()
    made.stage("s1", max_sessions=100)
    made.decoder("d1", max_sessions=100)
    yield made
    made.admission.close()


@pytest.fixture
async def small() -> AsyncIterator[World]:
    """One stage for one session."""
    made = World(queue_length=5)
    made.stage("s1", max_sessions=1)
    made.decoder("d1", max_sessions=100)
    yield made
    made.admission.close()


def needs(session: str = "a", **fields: Any) -> Needs:
    return Needs(**{"session": session, "tenant": "t", "model": "demo", **fields})


async def soon(waiting: Awaitable[T]) -> T:
    return await asyncio.wait_for(waiting, WAIT_S)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def is_waiting(task: "asyncio.Future[Any]") -> bool:
    await settle()
    return not task.done()


def position(claim: Claim) -> int:
    return claim.position


async def granted(claim: Claim) -> Places:
    return Places(*await soon(claim.wait()))


async def get_places(world: World, **fields: Any) -> Places:
    return await granted(world.admission.enqueue(needs(**fields)))


@contextmanager
def starting(waiting: Awaitable[T]) -> Iterator["asyncio.Future[T]"]:
    task = asyncio.ensure_future(waiting)
    yield task
    task.cancel()


async def test_places_are_packed(world: World) -> None:
    world.stage("s1", max_sessions=4)
    world.stage("s2", max_sessions=2)
    world.stage("s0", max_sessions=2)
    placed = [(await get_places(world)).stage.peer.address for _ in range(8)]
    assert placed == ["s0", "s0", "s2", "s2", "s1", "s1", "s1", "s1"]


async def test_decoders_are_packed_too(world: World) -> None:
    world.decoder("d2", max_sessions=3, num_sessions=2)
    assert [(await get_places(world)).decoder.peer.address for _ in range(2)] == ["d2", "d1"]


@pytest.mark.parametrize("state", [common_pb2.SERVING_STATE_STARTING, RESTARTING, DRAINING])
async def test_only_a_ready_stage_takes_sessions(small: World, state: int) -> None:
    small.stage("s1", state=state)
    claim = small.admission.enqueue(needs())
    assert position(claim) == 1
    small.stage("s1", state=READY)
    assert (await granted(claim)).stage.peer.address == "s1"


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({}, ("s1", "d1")),
        ({"model": "big"}, ("s2", "d2")),
        ({"revision": "r1"}, ("s1", "d1")),
        ({"width": 1280, "height": 720}, ("s1", "d1")),
        ({"encoders": frozenset({NVENC, common_pb2.VIDEO_ENCODER_SOFTWARE})}, ("s1", "d2")),
    ],
)
async def test_only_what_fits(world: World, fields: dict[str, Any], place: tuple[str, str]) -> None:
    world.stage("s2", model="big", revision="r7")
    world.decoder("d1", max_sessions=1)
    world.decoder("d2", models=("demo", "big"), encoders=[NVENC], max_sessions=2)
    places = await get_places(world, **fields)
    assert (places.stage.peer.address, places.decoder.peer.address) == place


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "none"},
        {"revision": "r2"},
        {"width": 1920, "height": 1088},
        {"encoders": frozenset({NVENC})},
    ],
)
async def test_what_fits_nowhere_waits(world: World, fields: dict[str, Any]) -> None:
    assert position(world.admission.enqueue(needs(**fields))) == 1
    assert world.admission.num_busy == 0


async def test_sessions_of_other_gateways_count(small: World) -> None:
    small.stage("s1", max_sessions=3, num_sessions=2)
    places = await get_places(small)
    small.stage("s1", max_sessions=3, num_sessions=2)  # ours is not open yet
    claim = small.admission.enqueue(needs())
    assert position(claim) == 1
    small.stage("s1", max_sessions=3, num_sessions=3)
    assert position(claim) == 1
    places.stage.praise()
    small.stage("s1", max_sessions=3, num_sessions=2)  # ours is open, so one of theirs has ended
    assert position(claim) == 0


async def test_a_place_held_for_long_is_open(small: World) -> None:
    small.stage("s1", max_sessions=2, num_sessions=1)
    await get_places(small)
    claim = small.admission.enqueue(needs())
    small.stage("s1", max_sessions=2, num_sessions=1)
    assert position(claim) == 1, "ours or theirs"
    small.clock.now += 31
    small.stage("s1", max_sessions=2, num_sessions=1)
    assert position(claim) == 0


async def test_a_place_is_free_once_the_stage_says_so(small: World) -> None:
    places = await get_places(small)
    small.stage("s1", max_sessions=1, num_sessions=1)
    claim = small.admission.enqueue(needs())
    places.stage.release()
    assert position(claim) == 1, "the stream there is not closed yet"
    small.stage("s1", max_sessions=1, num_sessions=0)
    assert position(claim) == 0


async def test_a_restarted_stage_is_empty(small: World) -> None:
    places = await get_places(small)
    small.stages.lose("s1")
    with starting(small.admission.stage(needs())) as moving:
        assert await is_waiting(moving)
        small.stage("s1", max_sessions=1, instance="two")
        assert await soon(moving)
    places.stage.release()
    assert small.admission.num_busy == 1


async def test_a_stage_that_is_not_listed_gets_nobody(small: World) -> None:
    small.stages.drop("s1")
    assert position(small.admission.enqueue(needs())) == 1


async def served(world: World, *claims: Claim) -> list[int]:
    """The order in which one place goes round."""
    order: list[int] = []
    while len(order) < len(claims):
        (number,) = [n for n, claim in enumerate(claims) if n not in order and not position(claim)]
        (await granted(claims[number])).stage.release()
        order.append(number)
    return order


async def test_priority_then_those_who_come_back_then_arrival(small: World) -> None:
    places = await get_places(small)
    wishes = [needs(priority=LOW), needs(), needs(is_resumed=True), needs(priority=0), needs(priority=HIGH)]
    claims = [small.admission.enqueue(each) for each in wishes]
    assert [position(claim) for claim in claims] == [5, 3, 2, 4, 1]
    assert small.admission.status(claims[0]).queue_length == small.admission.queue_length == 5
    places.stage.release()
    assert await served(small, *claims) == [4, 2, 1, 3, 0]


async def test_who_cannot_be_served_stops_nobody(small: World) -> None:
    stuck = small.admission.enqueue(needs(model="big", priority=HIGH))
    assert await get_places(small)
    assert position(stuck) == 1


async def test_half_a_place_is_none(small: World) -> None:
    small.decoder("d1", max_sessions=0)
    claim = small.admission.enqueue(needs())
    assert small.admission.num_busy == 0
    small.decoder("d1", max_sessions=1)
    assert (await granted(claim)).decoder.peer.address == "d1"


async def test_a_full_queue_refuses_only_who_would_wait(small: World) -> None:
    for _ in range(5):
        small.admission.enqueue(needs(model="big"))
    await get_places(small)
    with pytest.raises(QueueFull):
        small.admission.enqueue(needs(priority=HIGH))
    assert small.admission.queue_length == 5


async def test_positions_move_and_are_told(small: World) -> None:
    places = await get_places(small)
    first, second = small.admission.enqueue(needs()), small.admission.enqueue(needs())
    with starting(second.changed()) as moved, starting(first.changed()) as ended:
        assert await is_waiting(moved)
        places.stage.release()
        await soon(moved)
        await soon(ended)
    assert (position(first), position(second)) == (0, 1)
    third = small.admission.enqueue(needs())
    assert position(third) == 2
    second.cancel()
    assert position(third) == 1
    await soon(second.changed())


async def test_the_wait_is_estimated_from_the_pace(small: World) -> None:
    places = await get_places(small)
    claims = [small.admission.enqueue(needs()) for _ in range(3)]
    for claim in claims[:2]:
        assert not small.admission.status(claims[2]).HasField("eta")
        small.clock.now += 60
        places.stage.release()
        places = await granted(claim)
    assert small.admission.status(claims[2]).eta.ToSeconds() == 60
    fourth = small.admission.enqueue(needs())
    assert small.admission.status(fourth).eta.ToSeconds() == 120
    small.clock.now += 600
    eta_s = small.admission.status(claims[2]).eta.ToSeconds()
    assert 60 < eta_s < 600, "nothing for long: slower than it was"
    assert not small.admission.status(claims[0]).HasField("eta")


async def test_a_cancelled_wait_leaves_the_queue(small: World) -> None:
    await get_places(small)
    claim = small.admission.enqueue(needs())
    with starting(claim.wait()) as waiting:
        assert await is_waiting(waiting)
    await settle()
    assert waiting.cancelled()
    assert small.admission.queue_length == 0


async def test_a_wait_cancelled_as_it_is_served_gives_the_place_back(small: World) -> None:
    places = await get_places(small)
    claim = small.admission.enqueue(needs())
    with starting(claim.wait()) as waiting:
        assert await is_waiting(waiting)
        places.stage.release()
        assert position(claim) == 0, "served, but not awake yet"
    await settle()
    assert waiting.cancelled()
    assert small.admission.num_busy == 0


async def test_a_place_granted_between_cancel_and_its_arrival_is_given_back(small: World) -> None:
    places = await get_places(small)
    with starting(small.admission.stage(needs())) as waiting:
        assert await is_waiting(waiting)
        waiting.cancel()
        places.stage.release()
        await settle()
    assert waiting.cancelled()
    assert (small.admission.num_busy, small.admission.num_urgent) == (0, 0)


async def test_cancel_returns_what_nobody_took_and_ends_the_wait(small: World) -> None:
    claim = small.admission.enqueue(needs())
    assert small.admission.num_busy == 1
    claim.cancel()
    claim.cancel()
    assert small.admission.num_busy == 0
    with pytest.raises(SessionClosed):
        await soon(claim.wait())


async def test_cancel_by_another_ends_the_wait(small: World) -> None:
    await get_places(small)
    claim = small.admission.enqueue(needs())
    with starting(claim.wait()) as waiting:
        assert await is_waiting(waiting)
        claim.cancel()
        with pytest.raises(SessionClosed):
            await soon(waiting)


async def test_cancel_after_the_wait_keeps_the_seats(small: World) -> None:
    claim = small.admission.enqueue(needs())
    await soon(claim.wait())
    claim.cancel()
    assert small.admission.num_busy == 1


async def test_release_counts_once(small: World) -> None:
    places = await get_places(small)
    other = small.admission.enqueue(needs())
    places.stage.release()
    places.stage.release()
    assert (await granted(other)).stage
    places.stage.release()
    assert small.admission.num_busy == 1
    claim = small.admission.enqueue(needs())
    assert not small.admission.status(claim).HasField("eta"), "one place became free, not three"


async def test_recoveries_go_ahead_of_the_queue(small: World) -> None:
    places = await get_places(small)
    claim = small.admission.enqueue(needs(priority=HIGH))
    with starting(small.admission.stage(needs(priority=LOW))) as moving:
        assert await is_waiting(moving)
        assert small.admission.num_urgent == 1
        assert position(claim) == 1
        places.stage.release()
        place = await soon(moving)
    assert position(claim) == 1
    place.release()
    assert position(claim) == 0


async def test_an_address_to_avoid_is_never_used(small: World) -> None:
    with starting(small.admission.stage(needs(), {"s1"})) as moving:
        assert await is_waiting(moving)
        small.stage("s2")
        assert (await soon(moving)).peer.address == "s2"


async def test_another_decoder(small: World) -> None:
    small.decoder("d2", max_sessions=1)
    assert (await soon(small.admission.decoder(needs()))).peer.address == "d2"
    assert (await soon(small.admission.decoder(needs()))).peer.address == "d1"


async def backoff(world: World, place: Any) -> float:
    """Seconds until the blamed stage is used again, found by the clock."""
    place.blame()
    place.release()
    with starting(world.admission.stage(needs())) as waiting:
        for elapsed in range(1, 400):
            assert await is_waiting(waiting)
            world.advance(0.25)
            await settle()
            if waiting.done():
                world.last = waiting.result()
                return elapsed / 4
    raise AssertionError("never")


async def test_a_stage_that_fails_rests_longer_and_longer(small: World) -> None:
    small.last = await soon(small.admission.stage(needs()))
    rests = [await backoff(small, small.last) for _ in range(7)]
    assert rests == [1, 2, 4, 8, 16, 30, 30]
    small.last.praise()
    assert await backoff(small, small.last) == 1
    small.last.release()
    small.last = await soon(small.admission.stage(needs()))
    assert await backoff(small, small.last) == 1, "it served one to the end"


async def test_sessions_that_fail_together_count_once(world: World) -> None:
    places = [await soon(world.admission.stage(needs())) for _ in range(5)]
    for place in places[1:]:
        place.blame()
        place.release()
    assert await backoff(world, places[0]) == 1


async def test_others_are_used_meanwhile(small: World) -> None:
    small.stage("s2", max_sessions=50)
    place = await soon(small.admission.stage(needs()))
    assert place.peer.address == "s1"
    place.blame()
    place.release()
    assert (await soon(small.admission.stage(needs()))).peer.address == "s2"


async def test_the_end_of_a_rest_needs_no_event() -> None:
    stages, decoders = FakePool(), FakePool()
    admission = Admission(make(GatewaySettings, {}), stages, decoders)
    stages.report("s1", stage_status())
    place = await soon(admission.stage(needs()))
    place.blame()
    assert await soon(admission.stage(needs()))
    admission.close()


async def test_an_offered_place_is_taken_only_where_no_other_is_free(small: World) -> None:
    small.stage("s2", max_sessions=1)
    paused, other = await get_places(small), await get_places(small)
    paused.stage.offer()
    assert not paused.stage.revoked.is_set()
    other.stage.release()
    again = await get_places(small)
    assert not paused.stage.revoked.is_set()
    claim = small.admission.enqueue(needs())
    assert paused.stage.revoked.is_set()
    assert not paused.stage.withdraw()
    assert position(claim) == 1, "until its owner has left"
    paused.stage.release()
    assert (await granted(claim)).stage.peer.address == paused.stage.peer.address
    assert not again.stage.revoked.is_set()


async def test_an_offer_made_later_helps_who_waits(small: World) -> None:
    places = await get_places(small)
    claim = small.admission.enqueue(needs())
    places.stage.offer()
    assert places.stage.revoked.is_set()
    assert position(claim) == 1


async def test_a_withdrawn_offer_is_safe(small: World) -> None:
    places = await get_places(small)
    places.stage.offer()
    assert places.stage.withdraw()
    small.admission.enqueue(needs())
    assert not places.stage.revoked.is_set()


async def test_one_who_waits_costs_one_place_and_the_oldest_offer(small: World) -> None:
    small.stage("s1", max_sessions=3)
    paused = [await get_places(small) for _ in range(3)]
    for places in reversed(paused):
        places.stage.offer()
    small.admission.enqueue(needs())
    small.stage("s1", max_sessions=3, num_sessions=3)
    assert [places.stage.revoked.is_set() for places in paused] == [False, False, True]
    paused[2].stage.release()
    assert [places.stage.revoked.is_set() for places in paused] == [False, False, True], "it is closing"
    small.admission.enqueue(needs())
    assert [places.stage.revoked.is_set() for places in paused] == [False, True, True]


async def test_no_stage_is_taken_away_in_vain(small: World) -> None:
    places = await get_places(small)
    places.stage.offer()
    small.decoder("d1", max_sessions=1)
    small.admission.enqueue(needs())
    assert not places.stage.revoked.is_set(), "there would be no decoder"
    places.decoder.offer()
    assert places.stage.revoked.is_set()
    assert places.decoder.revoked.is_set()


async def test_a_place_nobody_leaves_is_taken_back(small: World) -> None:
    places = await get_places(small)
    places.stage.offer()
    claim = small.admission.enqueue(needs())
    small.advance(9.9)
    assert position(claim) == 1
    small.advance(0.2)
    assert position(claim) == 0
    places.stage.release()
    assert small.admission.num_busy == 1


async def test_an_offer_of_a_place_that_is_gone_helps_nobody(small: World) -> None:
    places = await get_places(small)
    places.stage.offer()
    small.stages.lose("s1")
    small.admission.enqueue(needs())
    assert not places.stage.revoked.is_set()


async def test_models_are_known_while_their_stages_are_away(small: World) -> None:
    assert small.admission.find_model("demo").width == 832
    assert small.admission.find_model("big") is None
    small.stage("s2", model="big", state=DRAINING)
    small.stages.lose("s2")
    assert small.admission.find_model("big").revision == "r1"
    assert set(small.admission.models) == {"demo", "big"}
    assert small.admission.has_stages
    assert not World().admission.has_stages


async def test_over_real_pools() -> None:
    settings = make(GatewaySettings, {"status_interval_s": 0.2})
    stage, decoder = FakePeer(stage_status(max_sessions=1)), FakePeer(decoder_status())
    async with serving(stage, decoder):
        stages: Pool[Any] = Pool("stage", StaticEndpoints([stage.address]), settings, PeerSettings())
        decoders: Pool[Any] = Pool("decoder", StaticEndpoints([decoder.address]), settings, PeerSettings())
        admission = Admission(settings, stages, decoders)
        first, second = admission.enqueue(needs("a")), admission.enqueue(needs("b"))
        await stages.start()
        await decoders.start()
        places = await granted(first)
        stage.set(num_sessions=1)
        async with asyncio.timeout(WAIT_S):
            while not places.stage.peer.status.num_sessions:
                await stages.changed()
        places.stage.release()
        assert position(second) == 1
        stage.set(num_sessions=0)
        assert (await granted(second)).stage.peer.address == stage.address
        for pool in (stages, decoders):
            await soon(pool.close())
        admission.close()


async def test_a_decoder_that_is_behind_gets_sessions_only_where_all_are() -> None:
    """The fullest one is the first to be given, as long as it keeps up."""
    world = World()
    world.stage("s1", max_sessions=100)
    slow = {"num_sessions": 2, "num_pending_blocks": 6, "last_block_time": {"seconds": 1}}
    world.decoder("d1", **slow)
    world.decoder("d2", max_sessions=1)
    assert (await get_places(world, session="a")).decoder.peer.address == "d2"
    assert (await get_places(world, session="b")).decoder.peer.address == "d1", "the only one left"
    world.decoder("d2", max_sessions=9)
    assert (await get_places(world, session="c")).decoder.peer.address == "d2"
    world.decoder("d1", **(slow | {"num_pending_blocks": 4}))
    assert (await get_places(world, session="d")).decoder.peer.address == "d1"
    world.admission.close()
