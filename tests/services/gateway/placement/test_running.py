"""Places that are free, and not for those who queue: sessions of other gateways need them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cascade.v1 import common_pb2
from services.gateway.base.settings import GatewaySettings
from services.gateway.journal import MemoryJournal, RunningSession
from services.gateway.journal.errors import StoreUnavailable
from tests.services.gateway.placement.test_admission import World, needs, settle

BOTH = frozenset({"stage", "decoder"})
PATIENCE_S = 120.0


class Elsewhere(MemoryJournal):
    """Tells of sessions that run at other gateways."""

    def __init__(self, *sessions: RunningSession) -> None:
        super().__init__()
        self.others = {one.session: one for one in sessions}
        self.is_away = False

    async def share_running(self, mine, over):  # type: ignore[no-untyped-def]
        if self.is_away:
            raise StoreUnavailable("away")
        return [*self.others.values(), *mine]


def running(
    session: str, model: str = "demo", silent_s: float = 0.0, **sets: frozenset[str]
) -> RunningSession:
    return RunningSession(session, model, "", model, **{"needs": BOTH, **sets}, silent_s=silent_s)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """One stage for two sessions, which two of another gateway have."""
    made = World()
    made.admission.running.begin()
    made.stage("s1", max_sessions=2, num_sessions=2)
    made.decoder("d1", max_sessions=9, num_sessions=2)
    yield made
    made.admission.close()


async def share(world: World, journal: Elsewhere) -> None:
    await world.admission.running.share(journal, 0.0)


async def test_a_place_is_kept_while_its_session_is_listed(world: World) -> None:
    journal = Elsewhere(running("x"), running("y"))
    await share(world, journal)
    world.stage("s1", max_sessions=2, num_sessions=0)  # their gateway died
    waiting = asyncio.create_task(world.admission.enqueue(needs("a")).wait())
    await share(world, journal)
    await settle()
    assert not waiting.done()
    journal.others.pop("x")  # it has ended: one place is kept, one is free
    await share(world, journal)
    await settle()
    assert waiting.done()
    second = asyncio.create_task(world.admission.enqueue(needs("b")).wait())
    await settle()
    assert not second.done()
    second.cancel()


async def test_who_ran_before_is_served_whatever_is_kept(world: World) -> None:
    await share(world, Elsewhere(running("x"), running("y")))
    world.stage("s1", max_sessions=2, num_sessions=0)
    async with asyncio.timeout(1.0):
        await world.admission.both(needs("a"))
        await world.admission.stage(needs("b"))


async def test_until_the_others_were_asked_a_place_that_was_left_is_nobodys(world: World) -> None:
    """Also one of a session that began since they were asked last; not for ever where they cannot be."""
    journal = Elsewhere()
    await share(world, journal)
    for ask in (True, False):
        world.stage("s1", max_sessions=2, num_sessions=2)
        world.stage("s1", max_sessions=2, num_sessions=1)
        waiting = asyncio.create_task(world.admission.enqueue(needs("a")).wait())
        await settle()
        assert not waiting.done()
        if ask:
            await share(world, journal)
        else:
            journal.is_away = True
            with pytest.raises(StoreUnavailable):
                await share(world, journal)
            world.advance(GatewaySettings().lease_s)
        await settle()
        assert waiting.done()
        for place in waiting.result():
            place.release()


@pytest.mark.parametrize("other", [running("x", "another"), running("x", needs=frozenset({"decoder"}))])
async def test_only_what_the_session_needs_is_kept(world: World, other: RunningSession) -> None:
    journal = Elsewhere(other)
    await share(world, journal)
    world.stage("s1", max_sessions=2, num_sessions=0)
    waiting = asyncio.create_task(world.admission.enqueue(needs("a")).wait())
    await share(world, journal)
    await settle()
    assert waiting.done()


async def test_places_that_nobody_takes_are_given_out_after_all(world: World) -> None:
    """When the sessions that they were kept for must have failed."""
    journal = Elsewhere(running("x", silent_s=5.0), running("y", silent_s=5.0))
    world.stage("s1", max_sessions=2, num_sessions=0)
    waiting = asyncio.create_task(world.admission.enqueue(needs("a")).wait())
    for _ in range(int(PATIENCE_S)):
        await share(world, journal)
        await settle()
        assert not waiting.done()
        world.advance(1.0)
    await share(world, journal)
    await settle()
    assert waiting.done()
    journal.others["z"] = running("z", lacks=frozenset({"stage"}))  # it has lost its place only now
    await share(world, journal)
    later = asyncio.create_task(world.admission.enqueue(needs("b")).wait())
    await settle()
    assert not later.done()
    later.cancel()


async def test_sessions_on_a_stage_that_leaves_will_need_another(world: World) -> None:
    await share(world, Elsewhere(running("x"), running("y")))
    world.stage("s2", max_sessions=2)
    waiting = asyncio.create_task(world.admission.enqueue(needs("a")).wait())
    await settle()
    assert waiting.done()
    for place in waiting.result():
        place.release()
    world.stage("s1", max_sessions=2, num_sessions=2, state=common_pb2.SERVING_STATE_DRAINING)
    later = asyncio.create_task(world.admission.enqueue(needs("b")).wait())
    await settle()
    assert not later.done()
    later.cancel()


async def test_what_could_not_be_told_is_told_later(world: World) -> None:
    journal, table = Elsewhere(), world.admission.running
    told: list[list[str]] = []
    ask = journal.share_running

    async def heard(mine, over):  # type: ignore[no-untyped-def]
        answer = await ask(mine, over)
        told.append([*sorted(one.session for one in mine), *(f"-{session}" for session in over)])
        return answer

    journal.share_running = heard  # type: ignore[method-assign]
    table.put(running("a"))
    journal.is_away = True
    with pytest.raises(StoreUnavailable):
        await share(world, journal)
    journal.is_away = False
    await share(world, journal)
    table.put(running("b"))
    await share(world, journal)
    table.drop("a")
    table.forget("b")
    await share(world, journal)
    assert told == [["a"], ["b"], ["-a"]]


async def test_a_gateway_that_has_just_started_gives_nothing_out_before_it_has_asked() -> None:
    made = World()
    made.stage("s1", max_sessions=2)
    made.decoder("d1", max_sessions=9)
    made.admission.running.begin()
    waiting = asyncio.create_task(made.admission.enqueue(needs("a")).wait())
    await settle()
    assert not waiting.done()
    await share(made, Elsewhere(running("x", silent_s=5.0)))
    await settle()
    assert waiting.done(), "one place is kept, one is free"
    made.admission.close()


async def test_a_shortage_of_long_ago_is_no_excuse(world: World) -> None:
    """It was seen once, and then nobody asked; or one session has been without a place for long."""
    stuck = running("stuck", lacks=frozenset({"stage"}))
    journal = Elsewhere(running("x"), running("y"), stuck)
    for _ in range(int(PATIENCE_S) + 2):
        await share(world, journal)
        world.advance(1.0)
    world.stage("s1", max_sessions=2, num_sessions=0)
    waiting = asyncio.create_task(world.admission.enqueue(needs("a")).wait())
    await share(world, journal)
    await settle()
    assert not waiting.done()
    waiting.cancel()


async def test_who_reports_a_session_that_nobody_lists_hides_no_shortage(world: World) -> None:
    """One of a gateway of the former release, which lists none."""
    world.stage("s1", max_sessions=3, num_sessions=2)
    journal = Elsewhere(running("x", lacks=frozenset({"stage"})))
    await share(world, journal)
    waiting = asyncio.create_task(world.admission.enqueue(needs("a")).wait())
    await settle()
    assert not waiting.done()
    waiting.cancel()


async def test_places_are_kept_from_those_alone_who_would_take_them(world: World) -> None:
    """The other model has machines of its own, where its sessions are; a decoder may serve both."""
    world.decoder("d2", max_sessions=9, models=["other"])
    lacking = [running(f"x{number}", "other", lacks=BOTH) for number in range(9)]
    await share(world, Elsewhere(*lacking))
    world.stage("s1", max_sessions=2, num_sessions=0)
    await share(world, Elsewhere(*lacking))
    claim = world.admission.enqueue(needs("a"))
    await settle()
    assert claim.position == 0
    claim.cancel()
    world.decoder("d1", max_sessions=9, num_sessions=2, models=["demo", "other"])
    claim = world.admission.enqueue(needs("b"))
    await settle()
    assert claim.position == 1
    claim.cancel()


async def yields(world: World, session: str) -> bool:
    asked = asyncio.create_task(world.admission.running.yield_asked(session))
    await settle()
    is_asked = asked.done()
    asked.cancel()
    return is_asked


async def test_who_yields_to_whom(world: World) -> None:
    """The greater id, to a living session of the same kind that has the other half."""
    stage, decoder = frozenset({"stage"}), frozenset({"decoder"})
    table = world.admission.running
    table.put(running("m", lacks=stage))
    for other, is_asked in (
        (running("a", lacks=decoder), True),
        (running("z", lacks=decoder), False),
        (running("a", lacks=stage), False),
        (running("a", lacks=BOTH), False),
        (running("a"), False),
        (running("a", "other", lacks=decoder), False),
        (running("a", lacks=decoder, silent_s=5.0), False),
    ):
        await share(world, Elsewhere(other))
        assert await yields(world, "m") == is_asked, other


async def test_what_is_forgotten_while_it_is_told_is_not_told_again(world: World) -> None:
    journal, table = Elsewhere(), world.admission.running

    async def fails(mine, over):  # type: ignore[no-untyped-def]
        table.forget("a")
        raise StoreUnavailable("away")

    journal.share_running = fails  # type: ignore[method-assign]
    table.put(running("a"))
    with pytest.raises(StoreUnavailable):
        await share(world, journal)
    assert not table._untold


async def test_what_is_over_before_it_was_told_asks_for_no_more_looks(world: World) -> None:
    """Else whoever waits for news would never rest."""
    journal, table = Elsewhere(), world.admission.running
    table.put(running("a"))
    table.forget("a")
    await share(world, journal)
    table.put(running("b"))
    await table.share(journal, 60.0)
    table.put(running("c"))
    table.forget("c")
    await table.share(journal, 60.0)
    assert not table.news.is_set()


async def test_who_comes_and_goes_does_not_make_an_old_shortage_young(world: World) -> None:
    """One session runs where this gateway sees no machine of it; others begin, and are reported later."""
    journal = Elsewhere(running("x"), running("y"), running("unseen"))
    for _ in range(12):
        journal.others["z"] = running("z")
        await share(world, journal)
        waiting = world.admission.enqueue(needs("a"))
        waiting.cancel()
        world.advance(0.5)
        del journal.others["z"]
        await share(world, journal)
        waiting = world.admission.enqueue(needs("a"))
        waiting.cancel()
        world.advance(0.5)
    world.stage("s1", max_sessions=3, num_sessions=2)
    await share(world, journal)
    claim = world.admission.enqueue(needs("a"))
    await settle()
    assert claim.position == 0
    claim.cancel()


async def test_places_are_not_kept_for_ever_while_nobody_can_be_asked(world: World) -> None:
    journal = Elsewhere(running("x", lacks=BOTH), running("y", lacks=BOTH))
    world.stage("s1", max_sessions=2, num_sessions=0)
    await share(world, journal)
    claim = world.admission.enqueue(needs("a"))
    await settle()
    assert claim.position == 1
    journal.is_away = True
    for _ in range(int(PATIENCE_S)):
        assert claim.position == 1
        world.advance(1.0)
        with pytest.raises(StoreUnavailable):
            await share(world, journal)
    await settle()
    assert claim.position == 0
    claim.cancel()


async def test_sessions_of_a_third_model_hide_no_shortage(world: World) -> None:
    """One decoder has demo and other, the next other and third: what runs there of third is neither here nor
    there."""
    world.decoder("d1", max_sessions=1, num_sessions=0, models=["demo", "other"])
    world.decoder("d2", max_sessions=9, num_sessions=1, models=["other", "third"])
    world.stage("s1", max_sessions=9, num_sessions=0)
    both = [running("third", "third"), running("lost", "other")]
    await share(world, Elsewhere(*both))
    claim = world.admission.enqueue(needs("a"))
    await settle()
    assert claim.position == 1
    claim.cancel()


async def test_what_was_left_while_nobody_can_be_asked_does_not_pile_up(world: World) -> None:
    for _ in range(100):
        world.admission.running.left("stage", 1)
        world.advance(1.0)
    assert len(world.admission.running._left) <= GatewaySettings().lease_s
