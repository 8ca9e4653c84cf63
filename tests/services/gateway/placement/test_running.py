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


def running(session: str, model: str = "demo", **sets: frozenset[str]) -> RunningSession:
    return RunningSession(session, model, **{"needs": BOTH, **sets})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """One stage for two sessions, which two of another gateway have."""
    made = World()
    made.admission.running.is_shared = True
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
    journal = Elsewhere(running("x"), running("y"))
    await share(world, journal)
    world.stage("s1", max_sessions=2, num_sessions=0)
    waiting = asyncio.create_task(world.admission.enqueue(needs("a")).wait())
    await share(world, journal)
    world.advance(PATIENCE_S - 1)
    await settle()
    assert not waiting.done()
    world.advance(2)
    await settle()
    assert waiting.done()


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
