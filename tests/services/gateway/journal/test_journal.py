"""One behaviour, three stores: memory, Redis, Redis in cluster mode."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway.journal import (
    Acked,
    Ended,
    Journal,
    KeptSegment,
    Lease,
    LimitsSet,
    MemoryJournal,
    Noted,
    PromptRefused,
    Record,
    Requested,
)
from services.gateway.journal.errors import (
    InvalidEntry,
    JournalError,
    JournalFull,
    LeaseHeld,
    LeaseLost,
    NoSuchSession,
    OutOfOrder,
    RequestConflict,
    SessionEnded,
    SessionTaken,
)
from tests.services.support.journal_support import (
    LEASE_S,
    LIMITS,
    Clock,
    Site,
    applied,
    blocks,
    latents,
    new,
    opened,
    segment,
    switch,
    until,
)
from tests.services.support.redis_support import RedisServer, needs_redis


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
