"""One behaviour, three stores: memory, Redis, Redis in cluster mode. And what only Redis can suffer."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade_core.config import WindowConfig
from cascade_core.schedule import context_blocks
from services.gateway.journal import (
    Change,
    Ended,
    Journal,
    LatentsMade,
    Lease,
    Limits,
    MemoryJournal,
    NewSession,
    PromptAccepted,
    PromptApplied,
    RedisStore,
    ReplicatedJournal,
    Segment,
    SegmentMade,
    SegmentsAcked,
    connect,
)
from services.gateway.journal.changes import apply
from services.gateway.journal.errors import (
    Fenced,
    InvalidEntry,
    JournalError,
    JournalFull,
    JournalUnavailable,
    LeaseHeld,
    NoSuchSession,
    OutOfOrder,
    RequestConflict,
    SegmentsGone,
    SessionEnded,
)
from services.gateway.journal.record import new_record
from tests.services.redis_support import RedisServer, needs_redis

LEASE_S = 30.0
WAIT_S = 20.0
LIMITS = Limits(num_sink_blocks=1, num_recent_blocks=3, num_segments=4, num_prompts=4, max_bytes=10_000)


@dataclass
class Clock:
    """Injected time; Redis's scripts are given it, too."""

    now_s: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Site:
    """Several gateways on one store: `journal(n)` is the one that gateway n sees."""

    def __init__(self, server: RedisServer | None, **options: Any) -> None:
        self.clock = Clock()
        self.server = server
        self.options = options
        self._journals: dict[int, Journal] = {}

    def journal(self, number: int = 0) -> Journal:
        if number not in self._journals:
            self._journals[number] = self._open(number)
        return self._journals[number]

    def _open(self, number: int) -> Journal:
        if self.server is None:
            return self._journals[0] if number else MemoryJournal(clock=self.clock, **self.options)
        return replicated(self.server, self.clock, **self.options)

    async def close(self) -> None:
        for journal in self._journals.values():
            await journal.close()


def replicated(server: RedisServer, clock: Clock | None = None, **options: Any) -> ReplicatedJournal:
    client = connect(server.url, call_timeout_s=5.0)
    store = RedisStore(client, clock=clock, call_timeout_s=options.pop("call_timeout_s", 5.0))
    return ReplicatedJournal(store, retry_s=(0.01, 0.05), takeover_grace_s=0.0, **options)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    server = RedisServer(cluster=True)
    yield server
    server.close()


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """To be killed."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture(
    params=["memory", pytest.param("server", marks=needs_redis), pytest.param("cluster", marks=needs_redis)]
)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    server = None if request.param == "memory" else request.getfixturevalue(request.param)
    if server:
        server.command("FLUSHALL")
    site = Site(server)
    site.journal(0)
    yield site
    await site.close()


def new(session: str = "s1", request_id: str = "", **values: Any) -> NewSession:
    values = {"tenant": "acme", "prompts": {0: "a red circle"}, "limits": LIMITS} | values
    return NewSession(session, specification=b"\x00spec\xff", request_id=request_id, **values)


def latents(block: int, size: int = 10) -> LatentsMade:
    return LatentsMade(block, bytes([block % 256, 0, 255, 13, 10]) * (size // 5))


def segment(number: int, size: int = 10) -> SegmentMade:
    return SegmentMade(Segment(number, number, bytes([number % 256]) * size, number * 67_500, 67_500))


def blocks(first: int, end: int) -> list[Change]:
    return [change for number in range(first, end) for change in (latents(number), segment(number))]


async def opened(journal: Journal, owner: str = "a", **values: Any) -> Lease:
    lease = (await journal.create(new(**values), owner, LEASE_S)).lease
    assert lease
    return lease


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)


class TestOneBehaviour:
    async def test_another_gateway_loads_what_was_written(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        await site.journal(0).write(lease, *blocks(0, 2), latents(2), SegmentsAcked(0))
        await site.journal(0).write(
            lease, PromptAccepted("r1", "blau", "boundary", 7), PromptApplied("r1", 7, 7)
        )
        mine, theirs = await site.journal(0).load("s1"), await site.journal(1).load("s1")
        assert mine == theirs
        assert theirs.origin == new()
        assert theirs.latents == {number: latents(number).data for number in range(3)}
        assert theirs.segments == tuple(segment(number).segment for number in range(2))
        cursors = theirs.cursors
        assert (cursors.next_stage_block, cursors.next_decoder_block) == (3, 2)
        assert (cursors.next_sequence, cursors.acked_sequence) == (2, 0)
        assert theirs.timeline() == {0: "a red circle", 7: "blau"}

    async def test_of_many_claims_one_wins(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        for round_ in range(3):
            site.clock.now_s += LEASE_S + 1
            claims = [site.journal(n % 2).claim("s1", f"{round_}-{n}", LEASE_S) for n in range(12)]
            answers = await asyncio.gather(*claims, return_exceptions=True)
            won = [answer for answer in answers if isinstance(answer, Lease)]
            assert [lease.epoch for lease in won] == [round_ + 2]
            assert sum(isinstance(answer, LeaseHeld) for answer in answers) == 11
            with pytest.raises(Fenced):
                await site.journal(0).write(lease, latents(0))
            lease = won[0]

    async def test_a_stale_owner_is_refused_and_changes_nothing(self, site: Site) -> None:
        stale = await opened(site.journal(0))
        await site.journal(0).write(stale, *blocks(0, 1))
        with pytest.raises(LeaseHeld) as held:
            await site.journal(1).claim("s1", "b", LEASE_S)
        assert held.value.owner == "a"
        site.clock.now_s += LEASE_S + 1
        fresh = await site.journal(1).claim("s1", "b", LEASE_S)
        assert fresh.epoch == 2
        await site.journal(1).write(fresh, latents(1))
        for act in (
            lambda: site.journal(0).write(stale, latents(1), latents(2)),
            lambda: site.journal(0).renew(stale, LEASE_S),
            lambda: site.journal(0).release(stale),
        ):
            with pytest.raises(Fenced):
                await act()
        assert (await site.journal(1).load("s1")).cursors.next_stage_block == 2
        assert await site.journal(0).load("s1") == await site.journal(1).load("s1")

    async def test_the_owner_may_claim_again_and_fences_itself(self, site: Site) -> None:
        journal = site.journal(0)
        first = await opened(journal)
        second = await journal.claim("s1", "a", LEASE_S)
        assert second.epoch == 2
        with pytest.raises(Fenced):
            await journal.write(first, latents(0))
        await journal.write(second, latents(0))
        site.clock.now_s += LEASE_S + 1
        assert (await site.journal(1).claim("s1", "b", LEASE_S)).epoch == 3

    async def test_renewing_holds_and_releasing_gives_away(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        site.clock.now_s += LEASE_S - 1
        await site.journal(0).renew(lease, LEASE_S)
        site.clock.now_s += 2
        with pytest.raises(LeaseHeld):
            await site.journal(1).claim("s1", "b", LEASE_S)
        assert await site.journal(1).orphans(10) == []
        await site.journal(0).release(lease)
        with pytest.raises(Fenced):
            await site.journal(0).write(lease, latents(0))
        assert await site.journal(1).orphans(10) == ["s1"]
        assert (await site.journal(1).claim("s1", "b", LEASE_S)).epoch == 2
        assert await site.journal(1).orphans(10) == []

    async def test_latents_of_sink_and_window_are_kept(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        for number in range(10):
            await site.journal(0).write(lease, latents(number), segment(number))
        record = await site.journal(1).load("s1")
        assert list(record.latents) == [0, 7, 8, 9]
        assert [kept.sequence for kept in record.segments] == [6, 7, 8, 9]

    async def test_latents_wait_for_the_decoder(self, site: Site) -> None:
        lease = await opened(site.journal(0), limits=replace(LIMITS, num_warmup_blocks=1))
        await site.journal(0).write(lease, *blocks(0, 3), *(latents(number) for number in range(3, 10)))
        assert list((await site.journal(1).load("s1")).latents) == [0, *range(2, 10)]

    async def test_repeats_change_nothing_and_gaps_are_refused(self, site: Site) -> None:
        lease, journal = await opened(site.journal(0)), site.journal(0)
        await journal.write(lease, *blocks(0, 2))
        before = await journal.load("s1")
        await journal.write(lease, *blocks(0, 2), SegmentsAcked(-1))
        assert await journal.load("s1") == before
        for change in (latents(3), segment(3), segment(2), SegmentsAcked(2)):
            with pytest.raises(OutOfOrder):
                await journal.write(lease, change)
        assert await journal.load("s1") == before

    async def test_a_write_is_all_or_nothing(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        with pytest.raises(OutOfOrder):
            await site.journal(0).write(lease, latents(0), latents(2))
        assert (await site.journal(1).load("s1")).cursors.next_stage_block == 0

    async def test_segments_are_read_gap_free(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        reader = site.journal(1)
        assert await reader.read_segments("s1", -1, 5) == ()
        await site.journal(0).write(lease, *blocks(0, 7))
        assert [kept.sequence for kept in await reader.read_segments("s1", 3, 2)] == [4, 5]
        assert [kept.sequence for kept in await reader.read_segments("s1", 2, 99)] == [3, 4, 5, 6]
        assert await reader.read_segments("s1", 6, 5) == ()
        for number in (0, 1):
            for after in (-1, 1):
                with pytest.raises(SegmentsGone) as gone:
                    await site.journal(number).read_segments("s1", after, 1)
                assert gone.value.oldest == 3

    async def test_request_ids(self, site: Site) -> None:
        journal = site.journal(0)
        first = await journal.create(new("s1", "r"), "a", LEASE_S)
        again = await journal.create(new("s2", "r"), "a", LEASE_S)
        assert (again.session, again.lease, again.is_new) == ("s1", first.lease, False)
        elsewhere = await site.journal(1).create(new("s3", "r"), "b", LEASE_S)
        assert (elsewhere.session, elsewhere.lease, elsewhere.is_new) == ("s1", None, False)
        with pytest.raises(RequestConflict):
            await site.journal(1).create(new("s4", "r", prompts={0: "other"}), "b", LEASE_S)
        lease = first.lease
        assert lease
        for _ in range(2):
            await journal.write(lease, PromptAccepted("r1", "blue"))
        for _ in range(2):
            await journal.write(lease, PromptApplied("r1", 3, 5))
            await journal.write(lease, PromptAccepted("r1", "blue"))
        for change in (PromptAccepted("r1", "green"), PromptApplied("r1", 4, 5)):
            with pytest.raises(RequestConflict):
                await journal.write(lease, change)
        assert (await site.journal(1).load("s1")).timeline() == {0: "a red circle", 3: "blue"}

    async def test_ten_creations_of_one_request_make_one_session(self, site: Site) -> None:
        creations = await asyncio.gather(
            *(site.journal(n % 2).create(new(f"s{n}", "r"), f"gateway-{n % 2}", LEASE_S) for n in range(10))
        )
        assert len({creation.session for creation in creations}) == 1
        owners = {creation.lease.owner for creation in creations if creation.lease}
        assert len(owners) == 1
        assert len((await site.journal(0).list_sessions("acme")).sessions) == 1

    async def test_pages(self, site: Site) -> None:
        for number in range(7):
            await site.journal(0).create(new(f"s{number}"), "a", LEASE_S)
            site.clock.now_s += 0.001 * (number % 2)
        await site.journal(0).create(replace(new("other"), tenant="rival"), "a", LEASE_S)
        seen, token = [], ""
        for _ in range(4):
            page = await site.journal(1).list_sessions("acme", token, 2)
            seen += [summary.session for summary in page.sessions]
            token = page.next_page_token
        assert token == ""
        assert seen == [f"s{number}" for number in range(7)]
        assert (await site.journal(1).list_sessions("nobody")).sessions == ()
        for bad, size in (("no token!", 2), ("", 0), ("", 10_000)):
            with pytest.raises(InvalidEntry):
                await site.journal(0).list_sessions("acme", bad, size)

    async def test_an_ended_session(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        await site.journal(0).write(lease, *blocks(0, 3), Ended("deleted"))
        record = await site.journal(1).load("s1")
        assert (record.end_reason, record.latents, len(record.segments)) == ("deleted", {}, 3)
        with pytest.raises(Fenced):
            await site.journal(0).write(lease, latents(3))
        for number in (0, 1):
            with pytest.raises(SessionEnded):
                await site.journal(number).claim("s1", "a", LEASE_S)
        assert (await site.journal(1).list_sessions("acme")).sessions[0].end_reason == "deleted"
        site.clock.now_s += LEASE_S + 1
        assert await site.journal(1).orphans(10) == []

    async def test_bounds_name_themselves(self, site: Site) -> None:
        journal = site.journal(0)
        lease = await opened(journal, limits=replace(LIMITS, max_bytes=1000))
        await journal.write(lease, latents(0, 300), segment(0, 300), latents(1, 100), segment(1, 200))
        assert len((await journal.load("s1")).segments) == 2
        await journal.write(lease, latents(2, 150))
        assert [kept.sequence for kept in (await site.journal(1).load("s1")).segments] == [1]
        with pytest.raises(JournalFull, match="max_bytes 1000"):
            await journal.write(lease, latents(3, 400))
        with pytest.raises(JournalFull, match="max_total_bytes"):
            await journal.create(new("s2", limits=replace(LIMITS, max_bytes=2**40)), "a", LEASE_S)

    async def test_prompts_give_way_unless_they_rule_what_is_kept(self, site: Site) -> None:
        journal = site.journal(0)
        lease = await opened(journal, limits=replace(LIMITS, num_prompts=6))
        for number in range(12):
            await journal.write(lease, *blocks(number, number + 1))
            await journal.write(lease, PromptAccepted(f"r{number}", f"prompt {number}"))
            await journal.write(lease, PromptApplied(f"r{number}", number + 1, number + 1))
            record = await site.journal(1).load("s1")
            assert len(record.prompts) <= 6
            whole = {0: "a red circle"} | {block + 1: f"prompt {block}" for block in range(number + 1)}
            for block in (*record.latents, record.cursors.next_stage_block):
                assert ruling(record.timeline(), block) == ruling(whole, block)

    async def test_unknown_and_unusable_names(self, site: Site) -> None:
        for act in (site.journal(0).load("none"), site.journal(0).read_segments("none", -1, 1)):
            with pytest.raises(NoSuchSession):
                await act
        with pytest.raises(NoSuchSession):
            await site.journal(0).claim("none", "a", 1.0)
        for values in (
            {"tenant": "a{b}"},
            {"tenant": ""},
            {"prompts": {3: "late"}},
            {"request_id": "x" * 999},
        ):
            with pytest.raises(InvalidEntry):
                new(**values)


def ruling(timeline: dict[int, str], block: int) -> str:
    return timeline[max(begin for begin in timeline if begin <= block)]


@given(st.integers(0, 3), st.integers(1, 5), st.integers(0, 25))
def test_what_is_kept_reopens_the_engine(sink: int, window: int, end: int) -> None:
    """The engine's own rule names the latents that it needs at any block."""
    config = WindowConfig(block_frames=3, window_frames=3 * window, sink_frames=3 * sink)
    limits = Limits(num_sink_blocks=sink, num_recent_blocks=sink + window)
    record = new_record(new(limits=limits), 0)
    for number in range(end):
        record = apply(record, latents(number), segment(number))
    assert set(record.latents) == set(context_blocks(config, end))


def test_waiting_switches_are_told_apart() -> None:
    record = apply(
        new_record(new(), 0),
        *blocks(0, 5),
        PromptAccepted("now", "b"),
        PromptAccepted("then", "c", at_block=9),
    )
    record = apply(record, PromptAccepted("missed", "d", at_block=2))
    assert [entry.request_id for entry in record.waiting()] == ["now", "missed"]
    assert record.timeline() == {0: "a red circle", 9: "c"}
    record = apply(record, PromptApplied("now", 6, 8))
    assert record.timeline() == {0: "a red circle", 6: "b", 9: "c"}


def test_no_torch() -> None:
    code = "import services.gateway.journal, sys; print(sorted({'torch', 'grpc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [b"[]"]


CHANGES = st.one_of(
    st.builds(latents, st.integers(0, 6), st.sampled_from([0, 10, 3000])),
    st.builds(segment, st.integers(0, 6), st.sampled_from([0, 10, 4000])),
    st.builds(
        PromptAccepted, st.sampled_from("xyz"), st.text(max_size=3), at_block=st.none() | st.integers(0, 8)
    ),
    st.builds(PromptApplied, st.sampled_from("xyz"), st.integers(0, 8), st.integers(0, 8)),
    st.builds(SegmentsAcked, st.integers(-1, 6)),
    st.builds(Ended, st.sampled_from(["", "deleted"])),
)
STEPS = st.one_of(
    st.tuples(st.just("create"), st.sampled_from("pq"), st.sampled_from(["", "r"]), st.sampled_from("ab")),
    st.tuples(st.just("claim"), st.sampled_from("pq"), st.sampled_from("ab")),
    st.tuples(st.just("wait"), st.sampled_from([1.0, LEASE_S])),
    st.tuples(st.just("renew") | st.just("release"), st.integers(0, 3)),
    st.tuples(st.just("next"), st.integers(0, 3)),
    st.tuples(st.just("write"), st.integers(0, 3), st.lists(CHANGES, max_size=4)),
    st.tuples(st.just("read"), st.sampled_from("pq"), st.integers(-1, 6), st.integers(1, 3)),
    st.tuples(st.just("list")),
    st.tuples(st.just("orphans")),
)


async def run_steps(site: Site, steps: list[tuple[Any, ...]]) -> list[Any]:
    """What each step answers, or the kind of its error; each owner has a gateway."""
    leases: list[Lease] = []
    heard: list[Any] = []

    async def act(step: tuple[Any, ...]) -> Any:
        match step:
            case ("create", session, request_id, owner):
                creation = await site.journal("ab".index(owner)).create(
                    new(session, request_id), owner, LEASE_S
                )
                leases.extend([creation.lease] if creation.lease else [])
                return creation
            case ("claim", session, owner):
                leases.append(await site.journal("ab".index(owner)).claim(session, owner, LEASE_S))
                return leases[-1]
            case ("wait", seconds):
                site.clock.now_s += seconds
            case ("read", session, after, limit):
                return await site.journal(1).read_segments(session, after, limit)
            case ("list",):
                return await site.journal(1).list_sessions("acme")
            case ("orphans",):
                return sorted(await site.journal(1).orphans(9))
            case (kind, number, *rest) if leases:
                lease = leases[-1 - number % len(leases)]
                journal = site.journal("ab".index(lease.owner))
                if kind == "renew":
                    await journal.renew(lease, LEASE_S)
                elif kind == "release":
                    await journal.release(lease)
                elif kind == "next":
                    cursors = (await journal.load(lease.session)).cursors
                    await journal.write(
                        lease, latents(cursors.next_stage_block), segment(cursors.next_sequence)
                    )
                else:
                    await journal.write(lease, *rest[0])
        return None

    for step in steps:
        try:
            heard.append(await act(step))
        except JournalError as error:
            details = "" if isinstance(error, Fenced) else str(error)  # who has it is not known everywhere
            heard.append((type(error).__name__, details))
        for session in "pq":
            try:
                heard.append(await site.journal(2).load(session))
            except NoSuchSession:
                heard.append(None)
    return heard


@needs_redis
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=20))
def test_memory_and_redis_are_one(server: RedisServer, steps: list[tuple[Any, ...]]) -> None:
    async def both() -> None:
        heard = []
        for store in (None, server):
            server.command("FLUSHALL")
            site = Site(store)
            site.journal(0)
            heard.append(await run_steps(site, steps))
            await site.close()
        assert heard[0] == heard[1]

    asyncio.run(both())


@needs_redis
class TestRedisGone:
    async def test_every_key_expires_and_shares_its_sessions_slot(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, client = replicated(server), connect(server.url)
        lease = await opened(journal, request_id="r")
        await journal.write(lease, *blocks(0, 3))
        keys = [key async for key in client.scan_iter()]
        assert len(keys) == 6
        for key in keys:
            assert 3_500_000 < await client.pttl(key) <= 3_600_000
        await journal.write(lease, Ended("deleted"))
        ttls = [await client.pttl(key) for key in keys if b"{s1}" in key]
        assert max(ttls) <= 300_000
        await journal.close()
        await client.aclose()

    async def test_kill_and_restart_in_mid_stream(self, own_server: RedisServer) -> None:
        journal, reader = replicated(own_server), replicated(own_server)
        lease = await opened(journal)
        await journal.write(lease, *blocks(0, 3))
        own_server.kill()
        for number in range(3, 40):
            await journal.write(lease, *blocks(number, number + 1))
        await journal.write(lease, PromptAccepted("r1", "blue"), PromptApplied("r1", 41, 43))
        behind = journal.behind()
        assert (behind.num_writes, behind.num_sessions) == (2 * 37 + 2, 1)
        assert behind.seconds > 0
        assert [kept.sequence for kept in await journal.read_segments("s1", 37, 5)] == [38, 39]
        with pytest.raises(JournalUnavailable):
            await reader.load("s1")
        with pytest.raises(JournalUnavailable):
            await journal.create(new("s2"), "a", LEASE_S)
        own_server.start()
        await until(lambda: journal.is_connected)
        assert journal.behind().num_writes == 0
        assert await reader.load("s1") == await journal.load("s1")
        await journal.write(lease, *blocks(40, 41))
        assert (await reader.load("s1")).cursors.next_sequence == 41
        for each in (journal, reader):
            await each.close()

    async def test_redis_comes_back_empty(self, own_server: RedisServer) -> None:
        journal, reader = replicated(own_server), replicated(own_server)
        lease = await opened(journal)
        await journal.write(lease, *blocks(0, 5))
        own_server.command("FLUSHALL")
        await journal.write(lease, *blocks(5, 6))
        assert await reader.load("s1") == await journal.load("s1")
        own_server.command("FLUSHALL")
        await journal.renew(lease, LEASE_S)
        assert await reader.load("s1") == await journal.load("s1")
        assert [summary.session for summary in (await reader.list_sessions("acme")).sessions] == ["s1"]
        with pytest.raises(LeaseHeld):
            await reader.claim("s1", "b", LEASE_S)
        for each in (journal, reader):
            await each.close()

    async def test_the_owner_claims_again_while_redis_is_gone(self, own_server: RedisServer) -> None:
        journal, other = replicated(own_server), replicated(own_server)
        first = await opened(journal)
        own_server.kill()
        second = await journal.claim("s1", "a", LEASE_S)
        assert second.epoch == 2
        with pytest.raises(Fenced):
            await journal.write(first, latents(0))
        await journal.write(second, latents(0))
        own_server.start()
        await until(lambda: journal.is_connected)
        await journal.release(second)
        third = await other.claim("s1", "b", LEASE_S)
        assert third.epoch == 3
        assert (await other.load("s1")).cursors.next_stage_block == 1
        for each in (journal, other):
            await each.close()

    async def test_a_takeover_during_a_partition_fences_the_old_owner(self, own_server: RedisServer) -> None:
        clock = Clock()
        journal, other = replicated(own_server, clock), replicated(own_server, clock)
        old = await opened(journal)
        own_server.kill()
        await journal.write(old, *blocks(0, 3))
        clock.now_s += LEASE_S + 1
        journal._store._call_timeout_s = 0.0  # the partition: the old owner alone sees no Redis
        own_server.start()
        fresh = await other.claim("s1", "b", LEASE_S)
        await other.write(fresh, latents(0))
        journal._store._call_timeout_s = 5.0
        await until(lambda: journal.is_connected)
        with pytest.raises(Fenced, match="b has it with epoch 2"):
            await journal.write(old, *blocks(3, 4))
        assert (await journal.load("s1")).cursors.next_stage_block == 1
        for each in (journal, other):
            await each.close()

    async def test_memory_is_bounded_while_redis_is_gone(self, own_server: RedisServer) -> None:
        journal = replicated(own_server)
        lease = await opened(journal)
        own_server.kill()
        for number in range(500):
            await journal.write(lease, *blocks(number, number + 1))
            await journal.write(
                lease, PromptAccepted(f"r{number}", "p"), PromptApplied(f"r{number}", number, number)
            )
            record = await journal.load("s1")
            assert record.num_bytes <= LIMITS.max_bytes
            assert (len(record.segments), len(record.latents)) <= (4, 4)
            assert len(record.prompts) <= LIMITS.num_prompts
        own_server.start()
        await until(lambda: journal.is_connected)
        await journal.close()

    async def test_a_redis_that_answers_nothing_does_not_stop_a_session(
        self, own_server: RedisServer
    ) -> None:
        journal = replicated(own_server, call_timeout_s=0.3)
        lease = await opened(journal)
        own_server.freeze()
        try:
            async with asyncio.timeout(WAIT_S):
                await journal.write(lease, *blocks(0, 3))
            assert not journal.is_connected
        finally:
            own_server.thaw()
        await until(lambda: journal.is_connected)
        await journal.close()

    async def test_a_lost_answer_is_no_second_write(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, reader = replicated(server), replicated(server)
        lease = await opened(journal)
        send = journal._store._do
        lost = asyncio.Event()

        async def losing(*command: Any) -> Any:
            answer = await send(*command)
            if command[0] == "EVALSHA" and not lost.is_set():
                lost.set()
                raise JournalUnavailable("the answer was lost")
            return answer

        journal._store._do = losing  # type: ignore[method-assign]
        await journal.write(lease, *blocks(0, 2))
        assert lost.is_set()
        await journal.write(lease, *blocks(2, 3))
        await until(lambda: journal.is_connected)
        assert await reader.load("s1") == await journal.load("s1")
        for each in (journal, reader):
            await each.close()
