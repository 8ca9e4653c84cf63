"""One behaviour, three stores: memory, Redis, Redis in cluster mode. And what only Redis can suffer."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from cascade_core.errors import InvalidConfig
from services.common.status import describe
from services.gateway.journal import (
    Acked,
    Change,
    Ended,
    Journal,
    KeptSegment,
    LatentsMade,
    Lease,
    Limits,
    LimitsSet,
    MemoryJournal,
    Noted,
    PromptRefused,
    Record,
    RedisStore,
    ReplicatedJournal,
    Requested,
    RunningSession,
    connect,
)
from services.gateway.journal.codec import Update
from services.gateway.journal.errors import (
    InvalidEntry,
    JournalError,
    JournalFull,
    LeaseHeld,
    LeaseLost,
    NoSuchSession,
    OutOfOrder,
    RequestConflict,
    SegmentsGone,
    SessionEnded,
    SessionTaken,
    StoreUnavailable,
)
from services.gateway.journal.record import new_record
from services.gateway.journal.rules import apply
from tests.services.support.front import Front
from tests.services.support.journal_support import (
    LEASE_S,
    LIMITS,
    WAIT_S,
    Clock,
    Site,
    applied,
    blocks,
    caught_up,
    latents,
    new,
    opened,
    replicated,
    segment,
    switch,
    until,
)
from tests.services.support.redis_support import RedisServer, needs_redis


def has(server: RedisServer, key: str) -> bool:
    return server.command("EXISTS", key).startswith(":1")


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
    """To be killed; it keeps what it acknowledged."""
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
    yield site
    await site.close()


class TestOneBehaviour:
    async def test_another_gateway_loads_what_was_written(self, site: Site) -> None:
        lease = await opened(site.journal(0), switch_mode="recache")
        limits = replace(LIMITS, num_recent_blocks=5)
        await site.journal(0).write(lease, *blocks(0, 2), latents(2), Acked(1), LimitsSet(limits))
        await site.journal(0).write(lease, switch("r1", "blau", 7), switch("r2"), Requested("q", b"\x00d"))
        written = await site.journal(0).write(
            lease, applied("r1", 7, 7), PromptRefused("r2", b"why"), Noted("init", b"\xff"), Noted("x", b"y")
        )
        theirs = await site.journal(1).load("s1")
        assert written == theirs == await site.journal(0).load("s1")
        assert theirs.origin == new(switch_mode="recache")
        assert theirs.latents == {number: latents(number).data for number in range(3)}
        assert theirs.segments == tuple(KeptSegment(block, segment(block).data) for block in range(2))
        assert (theirs.next_stage_block, theirs.next_decoder_block, theirs.num_acked) == (3, 2, 1)
        assert theirs.limits == limits
        assert theirs.notes == {"init": b"\xff", "x": b"y"}
        assert theirs.requests == {"q": b"\x00d"}
        assert theirs.timeline() == {0: "a red circle", 7: "blau"}
        assert theirs.num_bytes == weight(theirs)
        written = await site.journal(0).write(lease, Noted("x", b""))
        assert await site.journal(1).load("s1") == written
        summary = await site.journal(1).summary("s1")
        assert summary.record == written.brief()
        assert await site.journal(1).head("s1") == replace(written, latents={}, segments=())
        assert (summary.owner, summary.epoch, summary.lease_left_s) == ("a", 1, LEASE_S)
        assert await site.journal(0).summary("s1") == summary

    async def test_of_many_claims_one_wins(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        for turn in range(3):
            site.clock.now_s += LEASE_S + 1
            claims = [site.journal(n % 2).claim("s1", f"{turn}-{n}", LEASE_S) for n in range(12)]
            answers = await asyncio.gather(*claims, return_exceptions=True)
            won = [answer for answer in answers if isinstance(answer, Lease)]
            assert [lease.epoch for lease in won] == [turn + 2]
            assert sum(isinstance(answer, LeaseHeld) for answer in answers) == 11
            with pytest.raises(LeaseLost):
                await site.journal(0).write(lease, latents(0))
            lease = won[0]

    async def test_a_stale_owner_is_refused_and_changes_nothing(self, site: Site) -> None:
        stale = await opened(site.journal(0))
        await site.journal(0).write(stale, *blocks(0, 1))
        with pytest.raises(LeaseHeld) as held:
            await site.journal(1).claim("s1", "b", LEASE_S)
        assert (held.value.owner, held.value.left_s) == ("a", LEASE_S)
        site.clock.now_s += LEASE_S + 1
        fresh = await site.journal(1).claim("s1", "b", LEASE_S)
        assert fresh.epoch == 2
        await site.journal(1).write(fresh, latents(1))
        for act in (
            lambda: site.journal(0).write(stale, latents(9)),  # out of order, too: the lease counts first
            lambda: site.journal(0).write(stale, latents(1), latents(2)),
            lambda: site.journal(0).renew(stale, LEASE_S),
            lambda: site.journal(0).release(stale),
        ):
            with pytest.raises(LeaseLost) as error:
                await act()
            assert error.value.epoch in (1, 2)
        assert (await site.journal(1).load("s1")).next_stage_block == 2
        assert await site.journal(0).load("s1") == await site.journal(1).load("s1")

    async def test_the_owner_may_claim_again_and_fences_itself(self, site: Site) -> None:
        journal = site.journal(0)
        first = await opened(journal)
        second = await journal.claim("s1", "a", LEASE_S)
        assert second.epoch == 2
        with pytest.raises(LeaseLost):
            await journal.write(first, latents(0))
        await journal.write(second, latents(0))
        site.clock.now_s += LEASE_S + 1
        assert (await site.journal(1).claim("s1", "b", LEASE_S)).epoch == 3

    async def test_an_owner_that_was_fenced_does_not_go_on_with_its_old_record(self, site: Site) -> None:
        """The other gateway made two blocks and died; then the first one asks for its next epoch."""
        mine = await opened(site.journal(0))
        await site.journal(0).write(mine, *blocks(0, 1))
        site.clock.now_s += LEASE_S + 1
        theirs = await site.journal(1).claim("s1", "b", LEASE_S)
        await site.journal(1).write(theirs, *blocks(1, 3))
        site.clock.now_s += LEASE_S + 1
        for _ in range(2):
            with pytest.raises(LeaseLost):
                await site.journal(0).advance(mine, LEASE_S)
        again = await site.journal(0).claim("s1", "a", LEASE_S)
        assert (again.epoch, (await site.journal(0).load("s1")).next_stage_block) == (3, 3)
        assert (await site.journal(0).advance(again, LEASE_S)).epoch == 4

    async def test_changes_renew_the_lease_and_looks_do_not(self, site: Site) -> None:
        journal = site.journal(0)
        lease = await opened(journal)
        site.clock.now_s += LEASE_S - 5.0
        await journal.summary("s1")
        await journal.write(lease, Acked(0))  # changes nothing
        assert journal.is_leased(lease, 5.0)
        assert not journal.is_leased(lease, 5.1)
        await journal.write(lease, Noted("m", b"1"))
        assert journal.is_leased(lease, LEASE_S)
        assert not journal.is_leased(lease, LEASE_S + 0.1)
        assert (await site.journal(1).summary("s1")).lease_left_s == LEASE_S
        await journal.release(lease)
        assert not journal.is_leased(lease, 0.1)

    async def test_renewing_holds_and_releasing_gives_away(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        site.clock.now_s += LEASE_S - 1
        await site.journal(0).renew(lease, LEASE_S)
        site.clock.now_s += 2
        with pytest.raises(LeaseHeld):
            await site.journal(1).claim("s1", "b", LEASE_S)
        assert await site.journal(1).orphans(10) == []
        await site.journal(0).release(lease)
        with pytest.raises(LeaseLost):
            await site.journal(0).write(lease, latents(0))
        assert await site.journal(1).orphans(10) == ["s1"]
        assert (await site.journal(1).claim("s1", "b", LEASE_S)).epoch == 2
        assert await site.journal(1).orphans(10) == []

    async def test_orphans_come_oldest_first_and_all(self, site: Site) -> None:
        leases = []
        for number in range(120):
            leases.append(await opened(site.journal(0), session=f"s{number}"))
            site.clock.now_s += 0.25
        site.clock.now_s += LEASE_S
        for lease in leases[:60]:
            await site.journal(0).renew(lease, 2 * LEASE_S)
        assert await site.journal(1).orphans(200) == [f"s{number}" for number in range(60, 120)]
        assert await site.journal(1).orphans(3) == ["s60", "s61", "s62"]
        site.clock.now_s += 2 * LEASE_S
        assert len(await site.journal(1).orphans(200)) == 120

    async def test_a_write_is_all_or_nothing(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        with pytest.raises(OutOfOrder):
            await site.journal(0).write(lease, latents(0), latents(2))
        assert (await site.journal(1).load("s1")).next_stage_block == 0

    async def test_a_repeated_creation_gives_no_lease(self, site: Site) -> None:
        first = await site.journal(0).create(new("s1", "r"), "a", LEASE_S)
        assert first.is_new

        async def repeat() -> None:
            for number, owner in ((0, "a"), (1, "b")):
                again = await site.journal(number).create(new("s2", "r"), owner, LEASE_S)
                assert (again.session, again.lease, again.is_new) == ("s1", None, False)
                with pytest.raises(RequestConflict):
                    await site.journal(number).create(new("s3", "r", prompts={0: "other"}), owner, LEASE_S)

        await repeat()
        site.clock.now_s += LEASE_S + 1
        taken = await site.journal(1).claim("s1", "b", LEASE_S)
        await repeat()
        await site.journal(1).release(taken)
        await repeat()
        last = await site.journal(0).claim("s1", "a", LEASE_S)
        assert last.epoch == 3
        await site.journal(0).write(last, Ended(b"over"))
        await repeat()
        assert await site.journal(1).num_open("acme") == 0

    async def test_a_request_finds_the_session_that_it_made(self, site: Site) -> None:
        first, other = site.journal(0), site.journal(1)
        assert await first.find_request("acme", "r1") is None
        await first.create(new("s1", "r1"), "a", LEASE_S)
        assert await other.find_request(new().tenant, "r1") == "s1"
        assert await other.find_request("another", "r1") is None

    async def test_writes_that_do_not_wait_arrive_in_order(self, site: Site) -> None:
        journal = site.journal(0)
        lease = await opened(journal)
        for change in blocks(0, 40):
            await journal.write(lease, change, is_urgent=False)
        assert (await journal.load("s1")).next_decoder_block == 40
        await until(lambda: not journal.behind().num_writes)
        assert (await site.journal(1).load("s1")).next_decoder_block == 40

    async def test_an_owner_that_does_not_wait_is_fenced_all_the_same(self, site: Site) -> None:
        journal, other = site.journal(0), site.journal(1)
        lease = await opened(journal)
        site.clock.now_s += LEASE_S + 1
        await other.claim("s1", "b", LEASE_S)

        async def go_on() -> None:
            for change in blocks(0, 400):
                await journal.write(lease, change, is_urgent=False)
                await asyncio.sleep(0.01)

        with pytest.raises(LeaseLost):
            await go_on()
        assert (await other.load("s1")).next_stage_block == 0

    async def test_a_taken_session_id(self, site: Site) -> None:
        await opened(site.journal(0))
        for number, request_id in ((0, ""), (1, ""), (1, "r")):
            with pytest.raises(SessionTaken):
                await site.journal(number).create(new("s1", request_id), "b", LEASE_S)
        assert (await site.journal(1).create(new("s2", "r"), "b", LEASE_S)).is_new
        other = new("s3", "r", tenant="a tenant: {with} odd/letters ü")
        assert (await site.journal(1).create(other, "b", LEASE_S)).is_new
        assert await site.journal(0).num_open(other.tenant) == 1

    async def test_ten_creations_of_one_request_make_one_session(self, site: Site) -> None:
        creations = await asyncio.gather(
            *(site.journal(n % 2).create(new(f"s{n}", "r"), f"gateway-{n % 2}", LEASE_S) for n in range(10))
        )
        assert len({creation.session for creation in creations}) == 1
        assert sum(creation.is_new for creation in creations) == 1
        assert sum(creation.lease is not None for creation in creations) == 1
        assert len((await site.journal(0).list_sessions("acme")).sessions) == 1

    async def test_pages_stay_in_place_while_sessions_come(self, site: Site) -> None:
        for number in range(7):
            await opened(site.journal(0), session=f"s{number}")
            site.clock.now_s += 0.25 * (number % 2)
        await opened(site.journal(0), session="other", tenant="rival")
        seen, token = [], ""
        for turn in range(4):
            page = await site.journal(1).list_sessions("acme", token, 2)
            seen += [summary.record.session for summary in page.sessions]
            token = page.next_page_token
            await opened(site.journal(0), session=f"t{turn}")
        assert token == ""
        assert seen == [f"s{number}" for number in reversed(range(7))]
        assert (await site.journal(1).list_sessions("nobody")).sessions == ()
        for bad, size in (("no token!", 2), ("", 0), ("", 10_000)):
            with pytest.raises(InvalidEntry):
                await site.journal(0).list_sessions("acme", bad, size)

    async def test_an_ended_session(self, site: Site) -> None:
        lease = await opened(site.journal(0))
        assert await site.journal(1).num_open("acme") == 1
        with pytest.raises(SessionEnded):
            await site.journal(0).write(lease, Ended(b"early"), latents(0))
        ended = await site.journal(0).write(lease, *blocks(0, 3), Ended(b"deleted"))
        record = await site.journal(1).load("s1")
        assert (record, record.end, record.latents, len(record.segments)) == (ended, b"deleted", {}, 3)
        for act in (site.journal(0).write(lease, latents(3)), site.journal(0).renew(lease, 1.0)):
            with pytest.raises(LeaseLost):
                await act
        for number in (0, 1):
            with pytest.raises(SessionEnded):
                await site.journal(number).claim("s1", "a", LEASE_S)
        (summary,) = (await site.journal(1).list_sessions("acme")).sessions
        assert (summary.record.end, summary.lease_left_s) == (b"deleted", 0.0)
        site.clock.now_s += LEASE_S + 1
        assert await site.journal(1).orphans(10) == []
        assert await site.journal(1).num_open("acme") == 0

    async def test_no_session_of_that_name(self, site: Site) -> None:
        for act in (
            site.journal(0).load("none"),
            site.journal(0).summary("none"),
            site.journal(0).claim("none", "a", 1.0),
        ):
            with pytest.raises(NoSuchSession):
                await act
        with pytest.raises(LeaseLost):
            await site.journal(0).renew(Lease("none", "a", 1), 1.0)

    async def test_the_reserve_is_bounded(self, site: Site) -> None:
        huge = replace(LIMITS, max_bytes=2**40)
        for _ in range(2):
            with pytest.raises(JournalFull, match="max_total_bytes"):
                await site.journal(0).create(new("s1", "r", limits=huge), "a", LEASE_S)
        lease = (await site.journal(0).create(new("s2", "r"), "a", LEASE_S)).lease
        assert lease
        with pytest.raises(JournalFull, match="max_total_bytes"):
            await site.journal(0).write(lease, LimitsSet(huge))


def weight(record: Record) -> int:
    """What `num_bytes` promises, counted anew."""
    return (
        len(record.origin.specification)
        + sum(map(len, record.latents.values()))
        + sum(len(kept.data) for kept in record.segments)
        + sum(entry.num_bytes for entry in record.prompts)
        + sum(map(len, record.notes.values()))
        + sum(len(name) + len(digest) for name, digest in record.requests.items())
        + len(record.end)
    )


def record_of(*changes: Change, **values: Any) -> Record:
    return apply(new_record(new(**values), 0), *changes)


class TestRecord:
    """The rules of `apply`, which every journal follows."""

    @given(st.integers(0, 3), st.integers(1, 5), st.integers(0, 4), st.integers(0, 25), st.integers(0, 25))
    def test_latents_kept(self, sink: int, recent: int, warmup: int, made: int, decoded: int) -> None:
        limits = Limits(num_sink_blocks=sink, num_recent_blocks=recent, num_warmup_blocks=warmup)
        record = record_of(*(latents(block) for block in range(made)), limits=limits)
        decoded = min(decoded, made)
        record = apply(record, *(segment(block) for block in range(decoded)))
        wanted = {*range(sink), *range(made - recent, made), *range(decoded - warmup, made)}
        assert list(record.latents) == sorted(wanted & set(range(made)))

    def test_unacknowledged_segments_stay(self) -> None:
        record = record_of(*blocks(0, 10))
        assert record.oldest_segment_block == 0
        record = apply(record, Acked(3))
        assert record.oldest_segment_block == 3
        record = apply(record, Acked(2), Acked(10), *blocks(10, 11))
        assert (record.num_acked, [kept.block for kept in record.segments]) == (10, [7, 8, 9, 10])
        assert [kept.block for kept in record.read(8, 2)] == [8, 9]
        assert record.read(11, 5) == ()
        with pytest.raises(SegmentsGone) as gone:
            record.read(6, 1)
        assert gone.value.oldest == 7

    def test_bytes_are_bounded(self) -> None:
        limits = replace(LIMITS, max_bytes=1000)
        record = record_of(latents(0, 300), segment(0, 300), latents(1, 100), segment(1, 200), limits=limits)
        assert len(record.segments) == 2
        record = apply(record, latents(2, 150))  # not even the unacknowledged ones stay
        assert [kept.block for kept in record.segments] == [1]
        with pytest.raises(JournalFull, match="max_bytes 1000"):
            apply(record, latents(3, 400))
        with pytest.raises(JournalFull, match="max_bytes 1000"):
            new_record(new(limits=limits, specification=b"x" * 1001), 0)

    def test_gaps_and_repeats_are_refused(self) -> None:
        record = record_of(*blocks(0, 2), latents(2))
        for change in (latents(2), latents(4), segment(1), segment(3), Acked(3), applied("x", 1, 1)):
            with pytest.raises(OutOfOrder):
                apply(record, change)
        with pytest.raises(OutOfOrder, match="no latents"):
            apply(record, segment(2), segment(3))

    def test_repeats_of_requests_change_nothing(self) -> None:
        record = record_of(switch("r1"), Requested("q", b"d"), Noted("n", b"v"), Acked(0))
        same = (replace(switch("r1"), accepted_ms=5), Requested("q", b"d"), Noted("n", b"v"), Acked(0))
        assert apply(record, *same, LimitsSet(LIMITS)) is record
        for change in (switch("r1", "green"), switch("r1", at_block=3), Requested("q", b"e")):
            with pytest.raises(RequestConflict):
                apply(record, change)
        record = apply(record, applied("r1", 3, 5))
        assert apply(record, applied("r1", 2, 9), switch("r1")) is record
        entry = record.find_prompt("r1")
        assert entry
        assert (entry.first_block_touched, entry.first_block_full, entry.unknown_words) == (3, 5, ("zorgle",))
        with pytest.raises(OutOfOrder):
            apply(record, PromptRefused("r1", b"late"))

    def test_timeline_and_waiting(self) -> None:
        record = record_of(*blocks(0, 5), prompts={0: "a", 3: "b", 8: "c"}, limits=Limits())
        record = apply(record, switch("then", "d", 9), switch("now", "e"), switch("bad", "f"))
        record = apply(record, PromptRefused("bad", b"why"))
        assert apply(record, PromptRefused("bad", b"other")) is record
        assert [(entry.request_id, entry.at_block) for entry in record.waiting()] == [
            ("then", 9),
            ("now", None),
        ]
        assert record.timeline() == {0: "a", 3: "b", 8: "c"}
        record = apply(record, *blocks(5, 7), applied("now", 6, 8))
        assert [entry.request_id for entry in record.waiting()] == ["then"]
        assert record.timeline() == {0: "a", 3: "b", 6: "e", 8: "c"}
        record = apply(record, applied("then", 9, 9), applied("create/8", 8, 8))
        assert record.waiting() == ()
        assert record.timeline() == {0: "a", 3: "b", 6: "e", 8: "c", 9: "d"}
        with pytest.raises(OutOfOrder):
            apply(record, applied("bad", 9, 9))

    def test_prompts_give_way_unless_they_rule_what_is_kept(self) -> None:
        record = record_of(limits=replace(LIMITS, num_prompts=6))
        for block in range(12):
            record = apply(
                record, *blocks(block, block + 1), switch(f"no{block}"), PromptRefused(f"no{block}", b"x")
            )
            record = apply(
                record, switch(f"r{block}", f"prompt {block}"), applied(f"r{block}", block + 1, block + 1)
            )
            assert len(record.prompts) <= 6
            whole = {0: "a red circle"} | {number + 1: f"prompt {number}" for number in range(block + 1)}
            for kept in (*record.latents, record.next_stage_block):
                assert ruling(record.timeline(), kept) == ruling(whole, kept)
        with pytest.raises(JournalFull, match="prompts wait"):
            apply(record, *(switch(f"s{number}") for number in range(6)))

    def test_only_the_newest_requests_are_known(self) -> None:
        record = record_of(*(Requested(f"q{number}", b"d") for number in range(5)))
        assert list(record.requests) == ["q2", "q3", "q4"]

    def test_what_no_journal_takes(self) -> None:
        for values in (
            {"session": "a{b}"},
            {"tenant": ""},
            {"prompts": {3: "late"}},
            {"prompts": dict.fromkeys(range(5), "more than num_prompts")},
            {"request_id": "x" * 999},
        ):
            with pytest.raises(InvalidEntry):
                new(**values)
        for change in (
            switch("create/0"),
            switch(""),
            Ended(b""),
            Noted("", b"x"),
            Requested("x", b"d" * 2000),
        ):
            with pytest.raises(InvalidEntry):
                record_of(change)
        with pytest.raises(InvalidEntry, match="num_recent_blocks"):
            Limits(num_recent_blocks=0)

    def test_errors_have_a_status(self) -> None:
        reasons = [
            describe(error, "id").details[0].value for error in (SessionTaken("s"), LeaseHeld("s", "a", 1.0))
        ]
        assert b"SESSION_EXISTS" in reasons[0]
        assert b"NOT_READY" in reasons[1]


def ruling(timeline: dict[int, str], block: int) -> str:
    return timeline[max(begin for begin in timeline if begin <= block)]


def test_no_torch() -> None:
    code = "import services.gateway.journal, sys; print(sorted({'torch', 'grpc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [b"[]"]


CHANGES = st.one_of(
    st.builds(latents, st.integers(0, 3), st.sampled_from([0, 10, 3000])),
    st.builds(segment, st.integers(0, 3), st.sampled_from([0, 10, 4000])),
    st.builds(switch, st.sampled_from("xyz"), st.text(max_size=3), st.none() | st.integers(0, 8)),
    st.builds(applied, st.sampled_from(["x", "y", "create/4"]), st.integers(0, 4), st.integers(3, 8)),
    st.builds(PromptRefused, st.sampled_from("xyz"), st.sampled_from([b"", b"why"])),
    st.builds(Acked, st.integers(0, 4)),
    st.builds(Noted, st.sampled_from("mn"), st.sampled_from([b"", b"1", b"2"])),
    st.builds(Requested, st.sampled_from("stuvw"), st.sampled_from([b"1", b"2"])),
    st.builds(LimitsSet, st.builds(replace, st.just(LIMITS), num_recent_blocks=st.integers(1, 4))),
    st.builds(Ended, st.just(b"deleted")),
)
SESSIONS, OWNERS, LEASES = st.sampled_from("pppq"), st.sampled_from("ab"), st.integers(0, 3)
STEPS = st.one_of(
    st.tuples(st.just("create"), SESSIONS, st.sampled_from(["", "r", "r"]), st.sampled_from("xxxy"), OWNERS),
    st.tuples(st.sampled_from(["claim", "take", "take"]), SESSIONS, OWNERS),
    st.tuples(st.just("wait"), st.sampled_from([1.0, LEASE_S])),
    st.tuples(st.sampled_from(["renew", "release", "next", "next", "end", "end"]), LEASES),
    st.tuples(st.just("write"), LEASES, st.lists(CHANGES, max_size=4)),
)


class Run:
    """Takes steps at one site; each owner has a gateway of its own."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.leases: list[Lease] = []

    async def hear(self, step: tuple[Any, ...]) -> Any:
        """What the step answers, or the kind of its error and its text."""
        try:
            return await self._act(step)
        except JournalError as error:
            # which epoch a stale owner has heard of differs, that it is fenced does not
            return type(error).__name__, "" if isinstance(error, LeaseLost) else str(error)

    async def look(self) -> list[Any]:
        """Everything that each gateway and an onlooker see."""
        seen: list[Any] = []
        for number in range(3):
            journal = self.site.journal(number)
            first = await journal.list_sessions("acme", page_size=1)
            rest = (
                await journal.list_sessions("acme", first.next_page_token) if first.next_page_token else None
            )
            seen += [first, rest, await journal.num_open("acme"), await journal.orphans(9)]
            for session in "pq":
                try:
                    seen += [await journal.summary(session), await journal.load(session)]
                except NoSuchSession as error:
                    seen.append(str(error))
        return seen

    async def _act(self, step: tuple[Any, ...]) -> Any:
        match step:
            case ("create", session, request_id, prompt, owner):
                asked = new(session, request_id, prompts={0: prompt, 4: "later"})
                creation = await self._journal(owner).create(asked, owner, LEASE_S)
                self.leases += [creation.lease] if creation.lease else []
                return creation
            case ("claim" | "take" as kind, session, owner):
                self.site.clock.now_s += LEASE_S if kind == "take" else 0.0
                self.leases.append(await self._journal(owner).claim(session, owner, LEASE_S))
                return self.leases[-1]
            case ("wait", seconds):
                self.site.clock.now_s += seconds
            case (kind, number, *rest) if self.leases:
                return await self._use(self.leases[-1 - number % len(self.leases)], kind, *rest)
        return None

    async def _use(self, lease: Lease, kind: str, *rest: Any) -> Any:
        journal = self._journal(lease.owner)
        match kind:
            case "renew":
                return await journal.renew(lease, LEASE_S)
            case "release":
                return await journal.release(lease)
            case "end":
                return await journal.write(lease, Ended(b"deleted"))
            case "next":
                block = (await journal.load(lease.session)).next_stage_block
                return await journal.write(lease, latents(block), segment(block))
        return await journal.write(lease, *rest[0])

    def _journal(self, owner: str) -> Journal:
        return self.site.journal("ab".index(owner))


@needs_redis
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=5, max_size=20))
def test_memory_and_redis_are_one(server: RedisServer, steps: list[tuple[Any, ...]]) -> None:
    async def both() -> None:
        server.command("FLUSHALL")
        runs = [Run(Site(None)), Run(Site(server))]
        for step in [("create", "p", "r", "x", "a"), *steps]:
            in_memory, in_redis = [(await run.hear(step), await run.look()) for run in runs]
            assert in_memory == in_redis, step
            record = next((item for item in in_memory[1] if isinstance(item, Record)), None)
            assert record is None or record.num_bytes == weight(record)
        for run in runs:
            await run.site.close()

    asyncio.run(both())


@needs_redis
class TestRedisGone:
    @pytest.mark.parametrize("are_scripts_known", [True, False])
    async def test_much_data_of_a_stale_owner_change_nothing(
        self, server: RedisServer, are_scripts_known: bool
    ) -> None:
        server.command("FLUSHALL")
        clock, much = Clock(), 3000
        first, second = replicated(server, clock), replicated(server, clock)
        stale = await opened(first)
        await first.write(stale, latents(0, much))
        clock.now_s += LEASE_S
        lease = await second.claim("s1", "b", LEASE_S)
        await second.write(lease, latents(1, much))
        if not are_scripts_known:
            server.command("SCRIPT FLUSH")
        with pytest.raises(LeaseLost):
            await first.write(stale, LatentsMade(1, bytes(much)))
        found = await replicated(server, clock).load("s1")
        assert found.latents == {block: latents(block, much).data for block in (0, 1)}
        assert "parked" not in server.command("KEYS *")

    async def test_much_data_for_a_redis_that_has_lost_all(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, much = replicated(server), 2200
        lease = await opened(journal)
        await journal.write(lease, latents(0, much))
        for lost in ("FLUSHALL", "DEL test:{s1}:data", "HDEL test:{s1}:data l0"):
            server.command(lost)
            record = await journal.write(lease, latents((await journal.load("s1")).next_stage_block, much))
            assert await replicated(server).load("s1") == record, lost
            assert "parked" not in server.command("KEYS *")

    async def test_every_key_expires_and_ended_ones_sooner(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, client = replicated(server, ended_ttl_s=300.0), connect(server.url)
        lease = await opened(journal, request_id="r")
        await journal.write(lease, *blocks(0, 3))
        keys = [key async for key in client.scan_iter()]
        assert len(keys) == 7
        for key in keys:
            assert 3_500_000 < await client.pttl(key) <= 3_600_000
        await journal.write(lease, Ended(b"deleted"))
        ttls = [await client.pttl(key) for key in keys if b"{s1}" in key or b"request" in key]
        assert len(ttls) == 3
        assert max(ttls) <= 300_000
        await journal.close()
        await client.aclose()

    async def test_expired_sessions_leave_every_list(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, client = replicated(server, ttl_s=1.0), connect(server.url)
        kept = await opened(journal, session="kept")
        await opened(journal, request_id="r")
        assert await journal.num_open("acme") == 2
        journal._owned.pop("s1")  # its owner is gone

        async def is_gone() -> bool:
            await journal.renew(kept, LEASE_S)
            sizes = [
                await client.zcard(f"test:tenant:{{acme}}:{name}") for name in ("places", "kept", "open")
            ]
            return not await client.exists("test:{s1}:head") and sizes == [1, 1, 1]

        await until(is_gone)
        assert await journal.num_open("acme") == 1
        assert [summary.record.session for summary in (await journal.list_sessions("acme")).sessions] == [
            "kept"
        ]
        assert (await journal.create(new("s2", "r"), "b", LEASE_S)).session == "s2"
        server.command("DEL", "test:{s2}:head")
        names = [summary.record.session for summary in (await journal.list_sessions("acme")).sessions]
        assert (names, await journal.num_open("acme")) == (["kept"], 1)
        await journal.close()
        await client.aclose()

    @pytest.mark.parametrize("ahead_s", [3 * 3600.0, -3 * 3600.0])
    async def test_a_gateway_whose_clock_is_wrong(
        self, server: RedisServer, ahead_s: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It hides no session, counts as the others do, and makes none older or newer than it is."""
        server.command("FLUSHALL")
        right, wrong = replicated(server), replicated(server)
        await opened(right, session="s1")
        now_s = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: now_s + ahead_s)
            await wrong.create(new("s2"), "b", LEASE_S)
            assert await wrong.num_open("acme") == 2
            names = [summary.record.session for summary in (await wrong.list_sessions("acme")).sessions]
            assert names == ["s2", "s1"], "newest first"
        assert await right.num_open("acme") == 2
        names = [summary.record.session for summary in (await right.list_sessions("acme")).sessions]
        assert names == ["s2", "s1"]
        for each in (right, wrong):
            await each.close()

    async def test_kill_and_restart_in_mid_stream(self, own_server: RedisServer) -> None:
        journal, reader = replicated(own_server), replicated(own_server)
        lease = await opened(journal)
        await journal.write(lease, *blocks(0, 3), Acked(3))
        own_server.kill()
        for number in range(3, 40):
            await journal.write(lease, *blocks(number, number + 1), Acked(number + 1))
        await journal.write(lease, switch("r1"), applied("r1", 41, 43))
        behind = journal.behind()
        assert (behind.num_writes, behind.num_sessions) == (3 * 37 + 2, 1)
        assert behind.seconds > 0
        assert not journal.is_connected
        assert (await journal.load("s1")).next_decoder_block == 40
        assert (await journal.summary("s1")).record.next_decoder_block == 40
        for act in (reader.load("s1"), journal.create(new("s2"), "a", LEASE_S), reader.claim("s1", "b", 1.0)):
            with pytest.raises(StoreUnavailable):
                await act
        own_server.start()
        await caught_up(journal)
        assert await reader.load("s1") == await journal.load("s1")
        await journal.write(lease, *blocks(40, 41))
        assert (await reader.load("s1")).next_stage_block == 41
        for each in (journal, reader):
            await each.close()

    async def test_a_failover_to_a_replica(self) -> None:
        """The address leads to another server from now on; connections to the former primary stay open."""
        one, other = (RedisServer(tcp=True, persistent=False) for _ in range(2))
        front = Front()
        await front.start()
        try:
            other.command("REPLICAOF", *one.address.split(":"))
            front.lead_to([one.address])
            client = connect(f"redis://{front.address}/0")
            journal = ReplicatedJournal(RedisStore(client, "test"), retry_s=(0.01, 0.05))
            lease = await opened(journal)
            await journal.write(lease, *blocks(0, 3))
            await until(lambda: asyncio.to_thread(has, other, "test:{s1}:data"))
            other.command("REPLICAOF", "NO", "ONE")
            one.command("REPLICAOF", *other.address.split(":"))
            front.lead_to([other.address])
            await journal.write(lease, *blocks(3, 6))
            await caught_up(journal)
            reader = replicated(other)
            assert await reader.load("s1") == await journal.load("s1")
            for each in (journal, reader):
                await each.close()
        finally:
            await front.close()
            one.close()
            other.close()

    async def test_clients_are_told_nothing_of_redis(self, own_server: RedisServer) -> None:
        journal = replicated(own_server, call_timeout_s=0.2)
        own_server.freeze()
        with pytest.raises(StoreUnavailable, match=r"^the journal's store did not answer in time$"):
            await journal.summary("s1")
        own_server.kill()
        with pytest.raises(StoreUnavailable, match=r"^the journal's store cannot be reached$"):
            await journal.summary("s1")
        own_server.start()
        own_server.command("SET", "test:{s1}:head", "x")
        with pytest.raises(StoreUnavailable, match=r"^the journal's store refused the call$"):
            await journal.summary("s1")
        await journal.close()

    @pytest.mark.parametrize("step", ["write", "renew", "refused"])
    async def test_redis_comes_back_empty(self, own_server: RedisServer, step: str) -> None:
        journal, reader = replicated(own_server), replicated(own_server)
        lease = await opened(journal, request_id="r")
        await journal.write(lease, *blocks(0, 5), Noted("n", b"v"), switch("r1"))
        own_server.command("FLUSHALL")
        if step == "write":
            await journal.write(lease, *blocks(5, 6))
        elif step == "renew":
            await journal.renew(lease, LEASE_S)
        else:
            with pytest.raises(OutOfOrder):
                await journal.write(lease, latents(99))
        assert await reader.load("s1") == await journal.load("s1")
        assert [summary.record.session for summary in (await reader.list_sessions("acme")).sessions] == ["s1"]
        assert await reader.num_open("acme") == 1
        assert (await reader.create(new("s2", "r"), "b", LEASE_S)).session == "s1"
        with pytest.raises(LeaseHeld):
            await reader.claim("s1", "b", LEASE_S)
        for each in (journal, reader):
            await each.close()

    async def test_a_restart_that_forgot_everything(self) -> None:
        own_server = RedisServer(persistent=False)
        journal, reader = replicated(own_server), replicated(own_server)
        leases = [await opened(journal, session=f"s{number}") for number in range(5)]
        own_server.kill()
        for lease in leases:
            await journal.write(lease, *blocks(0, 3))
        own_server.start()
        await caught_up(journal)
        for lease in leases:
            assert await reader.load(lease.session) == await journal.load(lease.session)
        assert await reader.orphans(10) == []
        for each in (journal, reader):
            await each.close()
        own_server.close()

    async def test_lost_data_beside_a_head_are_restored(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, reader = replicated(server), replicated(server)
        lease = await opened(journal)
        await journal.write(lease, *blocks(0, 3))
        server.command("DEL", "test:{s1}:data")  # as a wrong eviction policy would
        with pytest.raises(NoSuchSession):
            await reader.load("s1")
        await journal.write(lease, *blocks(3, 4))
        assert await reader.load("s1") == await journal.load("s1")
        for each in (journal, reader):
            await each.close()

    async def test_the_owner_claims_again_while_redis_is_gone(self, own_server: RedisServer) -> None:
        journal, other = replicated(own_server), replicated(own_server)
        first = await opened(journal)
        own_server.kill()
        second = await journal.claim("s1", "a", LEASE_S)
        assert second.epoch == 2
        with pytest.raises(LeaseLost):
            await journal.write(first, latents(0))
        await journal.write(second, latents(0))
        own_server.start()
        await caught_up(journal)
        await journal.release(second)
        third = await other.claim("s1", "b", LEASE_S)
        assert third.epoch == 3
        assert (await other.load("s1")).next_stage_block == 1
        for each in (journal, other):
            await each.close()

    async def test_an_owner_cut_off_cannot_outbid_a_takeover(self, own_server: RedisServer) -> None:
        clock = Clock()
        journal, other = replicated(own_server, clock), replicated(own_server, clock)
        old = await opened(journal)
        line, journal._store._client = journal._store._client, connect(f"unix://{own_server.folder}/cut")
        await journal.write(old, *blocks(0, 3))
        for _ in range(5):
            old = await journal.claim("s1", "a", LEASE_S)
        assert old.epoch == 6
        clock.now_s += LEASE_S + 1
        fresh = await other.claim("s1", "b", LEASE_S)
        assert fresh.epoch == 2
        await other.write(fresh, latents(0))
        journal._store._client = line
        await until(lambda: journal.is_connected)
        with pytest.raises(LeaseLost) as error:
            await journal.write(old, *blocks(3, 4))
        assert error.value.epoch == 2
        with pytest.raises(LeaseHeld):
            await journal.claim("s1", "a", LEASE_S)
        await other.write(fresh, segment(0))
        assert await journal.load("s1") == await other.load("s1")
        assert (await journal.load("s1")).next_decoder_block == 1
        for each in (journal, other):
            await each.close()

    async def test_a_stale_owner_cannot_restore_over_a_later_one(self, own_server: RedisServer) -> None:
        clock = Clock()
        journal, other = replicated(own_server, clock), replicated(own_server, clock)
        stale = await opened(journal)
        clock.now_s += LEASE_S + 1
        fresh = await other.claim("s1", "b", LEASE_S)
        await other.write(fresh, *blocks(0, 2))
        own_server.command("FLUSHALL")
        await journal.write(stale, latents(0))  # Redis knows of nobody: the first to come restores its own
        await other.write(fresh, *blocks(2, 3))
        with pytest.raises(LeaseLost):
            await journal.write(stale, latents(1))
        assert (await journal.load("s1")).next_stage_block == 3
        for each in (journal, other):
            await each.close()

    async def test_redis_comes_back_with_an_older_state(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, reader, client = replicated(server), replicated(server), connect(server.url)
        lease = await opened(journal)
        await journal.write(lease, latents(0))
        old = await backup(client)
        await journal.write(lease, Noted("n", b"newer"))
        await restore(client, old)
        await journal.write(lease, Noted("m", b"newest"))
        assert await reader.load("s1") == await journal.load("s1")
        for each in (journal, reader):
            await each.close()
        await client.aclose()

    async def test_redis_comes_back_with_a_history_that_was_given_up(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, other, client = replicated(server), replicated(server), connect(server.url)
        first = await opened(journal)
        await journal.release(first)
        start = await backup(client)
        mine = await journal.claim("s1", "a", LEASE_S)
        await journal.write(mine, Noted("n", b"a"))
        given_up = await backup(client)
        await restore(client, start)
        theirs = await other.claim("s1", "b", LEASE_S)
        await other.write(theirs, Noted("n", b"b"))
        await other.release(theirs)
        with pytest.raises(LeaseLost):
            await journal.write(mine, Noted("n", b"c"))
        mine = await journal.claim("s1", "a", LEASE_S)
        await restore(client, given_up)  # the same owner and revision as what the owner has stored since
        await journal.write(mine, latents(0))
        record = await replicated(server).load("s1")
        assert record == await journal.load("s1")
        assert record.notes == {"n": b"b"}
        for each in (journal, other):
            await each.close()
        await client.aclose()

    async def test_an_id_created_again_after_a_loss_has_one_owner(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, other = replicated(server), replicated(server)
        old = await opened(journal)
        server.command("FLUSHALL")
        fresh = await opened(other, owner="b")
        assert old.epoch == fresh.epoch == 1
        with pytest.raises(LeaseLost):
            await journal.write(old, latents(0))
        await other.write(fresh, Noted("n", b"b"))
        assert (await journal.load("s1")).notes == {"n": b"b"}
        for each in (journal, other):
            await each.close()

    async def test_an_owner_that_claimed_elsewhere_fences_itself(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, other = replicated(server), replicated(server)
        first = await opened(journal)
        second = await other.claim("s1", "a", LEASE_S)
        with pytest.raises(LeaseLost):
            await journal.write(first, latents(0))
        await other.write(second, latents(0))
        for each in (journal, other):
            await each.close()

    async def test_memory_is_bounded_while_redis_is_gone(self, own_server: RedisServer) -> None:
        journal = replicated(own_server)
        lease = await opened(journal)
        own_server.kill()
        for number in range(500):
            record = await journal.write(
                lease,
                *blocks(number, number + 1),
                Acked(number + 1),
                switch(f"r{number}"),
                applied(f"r{number}", number, number),
            )
            assert record.num_bytes <= LIMITS.max_bytes
            assert (len(record.segments), len(record.latents)) <= (4, 4)
            assert len(record.prompts) <= LIMITS.num_prompts
        own_server.start()
        await caught_up(journal)
        await journal.close()

    async def test_sessions_end_and_are_released_during_an_outage(self, own_server: RedisServer) -> None:
        journal, other = replicated(own_server), replicated(own_server)
        ended, released = await opened(journal, session="ended"), await opened(journal, session="released")
        own_server.kill()
        await journal.write(ended, latents(0), Ended(b"over"))
        await journal.write(released, latents(0))
        await journal.release(released)
        for lease in (ended, released):
            with pytest.raises(LeaseLost):
                await journal.write(lease, latents(1))
        own_server.start()
        await caught_up(journal)

        async def is_orphan() -> bool:
            return await other.orphans(10) == ["released"]

        await until(is_orphan)
        assert await other.num_open("acme") == 1
        assert (await other.load("ended")).end == b"over"
        assert (await other.claim("released", "b", LEASE_S)).epoch == 2
        for each in (journal, other):
            await each.close()

    async def test_a_redis_that_answers_nothing_does_not_stop_sessions(self, own_server: RedisServer) -> None:
        journal = replicated(own_server, call_timeout_s=0.3)
        leases = [await opened(journal, session=f"s{number}") for number in range(20)]
        own_server.freeze()
        try:
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*(journal.write(lease, *blocks(0, 3)) for lease in leases))
                await asyncio.gather(*(journal.write(leases[0], latents(3 + block)) for block in range(9)))
            assert not journal.is_connected
            assert journal.behind().num_sessions == 20
        finally:
            own_server.thaw()
        await caught_up(journal)
        reader = replicated(own_server)
        for lease in leases:
            assert await reader.load(lease.session) == await journal.load(lease.session)
        for each in (journal, reader):
            await each.close()

    @pytest.mark.parametrize("outage", ["silence", "restart", "none seen: it has just started"])
    async def test_after_an_outage_owners_come_before_orphans(
        self, own_server: RedisServer, outage: str
    ) -> None:
        """Whoever looks for orphans, with sessions of its own or without, by itself or for a client. What was
        released is nobody's, whatever happened."""
        clock = Clock()
        owner, other = (replicated(own_server, clock, grace_s=2 * LEASE_S) for _ in range(2))
        lease = await opened(owner, session="theirs")
        await owner.release(await opened(owner, session="released"))

        async def watch(seconds: float) -> None:
            for _ in range(8):
                clock.now_s += seconds / 8
                await other.look()

        if outage != "none seen: it has just started":
            await watch(2 * LEASE_S)
        if outage == "restart":  # so short that a call fails at most once
            own_server.kill()
            own_server.start()
            with suppress(StoreUnavailable):
                await other.look()
        clock.now_s += LEASE_S + 1 if outage == "silence" else 0.01
        assert await other.orphans(10) == ["released"]
        assert (await other.claim("released", "b", LEASE_S)).epoch == 2
        await watch(LEASE_S)
        assert await other.orphans(10) == []
        with pytest.raises(LeaseHeld):
            await other.claim("theirs", "b", LEASE_S)
        assert (await owner.write(lease, *blocks(0, 1))).next_stage_block == 1
        await watch(LEASE_S)
        assert "theirs" in await other.orphans(10)
        assert (await other.claim("theirs", "b", LEASE_S)).epoch == 2
        for journal in (owner, other):
            await journal.close()

    async def test_a_claim_that_redis_gets_to_late_is_void(
        self, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It stood still with the claim in its socket, until the lease was over that nobody could renew."""
        owner, other = replicated(own_server), replicated(own_server, call_timeout_s=0.3)
        lease = (await owner.create(new(), "a", 1.0)).lease
        assert lease
        is_too_soon = other._is_too_soon

        async def then_a_pause() -> bool:
            answer = await is_too_soon()
            own_server.freeze()
            return answer

        monkeypatch.setattr(other, "_is_too_soon", then_a_pause)
        with pytest.raises(StoreUnavailable):
            await other.claim("s1", "b", LEASE_S)
        await asyncio.sleep(1.0)
        own_server.thaw()
        await owner.renew(lease, LEASE_S)
        found = await other.summary("s1")
        assert (found.owner, found.epoch) == ("a", 1)
        for journal in (owner, other):
            await journal.close()

    async def test_a_redis_that_does_not_say_who_it_is(self, own_server: RedisServer) -> None:
        """As some managed ones: sessions are taken over there as well, and outages end."""
        own_server.command("ACL", "SETUSER", "default", "-info")
        clock = Clock()
        owner, other = replicated(own_server, clock), replicated(own_server, clock)
        lease = await opened(owner)
        await owner.write(lease, *blocks(0, 1))
        owner._is_connected = False
        owner._go_on_without(StoreUnavailable("away"))
        await caught_up(owner)
        clock.now_s += LEASE_S + 1
        assert await other.orphans(10) == ["s1"]
        assert (await other.claim("s1", "b", LEASE_S)).epoch == 2
        for journal in (owner, other):
            await journal.close()

    async def test_sessions_that_were_fenced_take_no_room(self, server: RedisServer) -> None:
        clock = Clock()
        owner, other = replicated(server, clock), replicated(server, clock)
        leases = [await opened(owner, session=f"fenced-{number}") for number in range(3)]
        clock.now_s += LEASE_S + 1
        for lease in leases:
            await other.claim(lease.session, "b", LEASE_S)
        first, second, third = leases
        for act in (owner.write(first, *blocks(0, 1)), owner.renew(second, 1.0), owner.advance(third, 1.0)):
            with pytest.raises(LeaseLost):
                await act
        assert not owner._owned
        for journal in (owner, other):
            await journal.close()

    async def test_what_redis_has_lost_is_not_unknown_until_owners_could_store_it(
        self, own_server: RedisServer
    ) -> None:
        clock = Clock()
        other = replicated(own_server, clock, grace_s=4.0)
        with pytest.raises(NoSuchSession):
            await other.summary("s1")
        own_server.kill()
        for path in own_server.folder.glob("appendonlydir/*"):
            path.unlink()
        own_server.start()
        with suppress(StoreUnavailable):
            await other.look()
        with pytest.raises(StoreUnavailable, match="lost"):
            await other.summary("s1")
        clock.now_s += 5.0
        with pytest.raises(NoSuchSession):
            await other.summary("s1")
        await other.close()

    async def test_leases_are_renewed_before_the_data_are_stored(self, own_server: RedisServer) -> None:
        journal = replicated(own_server)
        leases = [await opened(journal, session=f"s{number}") for number in range(5)]
        own_server.kill()
        for lease in leases:
            await journal.write(lease, *blocks(0, 3))
        put, order = journal._store.put, []

        async def watched(lease: Lease, base: int, update: Update, lease_s: float | None) -> int | None:
            order.append((lease.session, len(update.data), lease_s))
            return await put(lease, base, update, lease_s)

        journal._store.put = watched  # type: ignore[method-assign]
        own_server.start()
        await caught_up(journal)
        assert order[:5] == [(lease.session, 0, LEASE_S) for lease in leases]
        assert [(name, size) for name, size, _ in order[5:]] == [(lease.session, 6) for lease in leases]
        await journal.close()

    async def test_only_what_is_new_is_sent(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal = replicated(server)
        lease = await opened(journal)
        put, sent = journal._store.put, []

        async def watched(lease: Lease, base: int, update: Update, lease_s: float | None) -> int | None:
            sent.append((update.expected is None, len(update.data)))
            return await put(lease, base, update, lease_s)

        journal._store.put = watched  # type: ignore[method-assign]
        for block in range(20):
            await journal.write(lease, *blocks(block, block + 1), Acked(block), switch(f"r{block}"))
            await journal.write(lease, applied(f"r{block}", block, block), Noted("n", bytes([block])))
        assert sent == [(False, 2), (False, 0)] * 20
        await journal.close()

    async def test_a_lost_answer_is_no_second_write(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal, reader = replicated(server), replicated(server)
        lease = await opened(journal)
        run = journal._store._script
        lost = asyncio.Event()

        async def losing(*script: Any, **options: Any) -> Any:
            answer = await run(*script, **options)
            if not lost.is_set():
                lost.set()
                raise StoreUnavailable("the answer was lost")
            return answer

        journal._store._script = losing  # type: ignore[method-assign]
        await journal.write(lease, *blocks(0, 2))
        assert lost.is_set()
        await journal.write(lease, *blocks(2, 3))
        await caught_up(journal)
        assert await reader.load("s1") == await journal.load("s1")
        for each in (journal, reader):
            await each.close()

    async def test_a_creation_whose_answer_was_lost_is_claimed(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal = replicated(server)
        create = journal._store.create

        async def losing(*arguments: Any) -> bool:
            await create(*arguments)
            raise StoreUnavailable("the answer was lost")

        journal._store.create = losing  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await journal.create(new("s1", "r"), "a", LEASE_S)
        journal._store.create = create  # type: ignore[method-assign]
        again = await journal.create(new("s2", "r"), "a", LEASE_S)
        assert (again.session, again.is_new) == ("s1", False)
        lease = await journal.claim("s1", "a", LEASE_S)
        assert lease.epoch == 2
        await journal.write(lease, latents(0))
        assert await journal.num_open("acme") == 1
        await journal.close()

    async def test_a_reservation_in_vain_gives_way(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        journal = replicated(server)
        await opened(journal, session="taken")
        await journal._store.reserve(new("taken", "r"))  # its maker died before it heard that the id is taken
        creation = await journal.create(new("free", "r"), "a", LEASE_S)
        assert (creation.session, creation.is_new) == ("free", True)
        await journal.close()


class TestMemoryOnly:
    async def test_sessions_expire(self) -> None:
        clock = Clock()
        journal = MemoryJournal(clock=clock, ttl_s=100.0, ended_ttl_s=50.0)
        kept = await opened(journal, session="kept")
        await opened(journal, request_id="r")
        ended = await opened(journal, session="ended")
        await journal.write(ended, Ended(b"over"))
        clock.now_s += 60
        await journal.renew(kept, LEASE_S)
        with pytest.raises(NoSuchSession):
            await journal.load("ended")
        clock.now_s += 60
        with pytest.raises(NoSuchSession):
            await journal.summary("s1")
        assert await journal.num_open("acme") == 1
        assert (await journal.create(new("s2", "r"), "a", LEASE_S)).is_new


async def backup(client: Redis) -> dict[bytes, bytes]:
    """Every session's keys as they are."""
    return {key: await client.dump(key) async for key in client.scan_iter("test:{*")}


async def restore(client: Redis, keys: dict[bytes, bytes]) -> None:
    """Those keys alone, as they were."""
    await client.flushall()
    for key, value in keys.items():
        await client.restore(key, 3_600_000, value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "redis+sentinel://:secret@a:26379",
        "redis+sentinel://:secret@a:b/primary",
        "redis+sentinel://:secret@a,,b/primary",
        "redis://:secret@a:1,b:2/0",
        "redis://:sec/ret@a:1/0",
        "redis://:secret@a/0?unknown=1",
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url: str) -> None:
    with pytest.raises(InvalidConfig, match=r"^gateway\.redis_url: ") as refused:
        connect(url)
    assert "sec" not in str(refused.value)


async def test_running_sessions_of_a_later_release_stay(server: RedisServer) -> None:
    mine = RunningSession("mine", "demo", "", "demo", frozenset({"stage"}))
    journal = replicated(server)
    later = b'{"model": "demo", "until": "tomorrow"}'
    await journal._store._do("HSET", "test:running", "later", later, "odd", b"[1, 2, 3, 4, null, 5]")
    assert await journal.share_running([mine], []) == [mine]
    assert await journal._store._do("HGET", "test:running", "later") == later
    await journal.share_running([], ["mine"])
    await journal.close()
