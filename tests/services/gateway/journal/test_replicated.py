"""A journal in Redis: what it writes, how often, and what it keeps."""

import asyncio
import time
from typing import Any

import pytest

from services.gateway.journal import (
    Acked,
    Ended,
    LatentsMade,
    Lease,
    Noted,
    RunningSession,
    connect,
)
from services.gateway.journal.codec import Update
from services.gateway.journal.errors import (
    LeaseLost,
    StoreUnavailable,
)
from tests.services.support.journal_support import (
    LEASE_S,
    LIMITS,
    Clock,
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


def num_puts(server: RedisServer) -> int:
    """Scripts that Redis has run so far."""
    lines = server.command("INFO", "commandstats").splitlines()
    stats = [line.split("calls=")[1] for line in lines if line.startswith("cmdstat_eval")]
    return sum(int(line.split(",")[0]) for line in stats)


@needs_redis
class TestWriting:
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

    async def test_a_block_goes_to_redis_in_one_step(self, server: RedisServer) -> None:
        """Its latents and its segment, also where somebody waits for what comes with them."""
        server.command("FLUSHALL")
        journal = replicated(server)
        lease = await opened(journal, limits=LIMITS)
        for last, is_urgent in ((Acked(1), False), (switch("r", "b"), True)):
            before = num_puts(server)
            block = (await journal.load("s1")).next_stage_block
            await journal.write(lease, latents(block), is_urgent=False)
            await journal.write(lease, segment(block), is_urgent=False)
            assert num_puts(server) == before
            await journal.write(lease, last, is_urgent=is_urgent)
            await until(lambda: not journal.behind().num_writes)
            assert num_puts(server) == before + 1
            assert (await journal._store.reads.load("s1")).next_decoder_block == block + 1
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


@needs_redis
async def test_running_sessions_of_a_later_release_stay(server: RedisServer) -> None:
    mine = RunningSession("mine", "demo", "", "demo", frozenset({"stage"}))
    journal = replicated(server)
    later = b'{"model": "demo", "until": "tomorrow"}'
    await journal._store._do("HSET", "test:running", "later", later, "odd", b"[1, 2, 3, 4, null, 5]")
    assert await journal.share_running([mine], []) == [mine]
    assert await journal._store._do("HGET", "test:running", "later") == later
    await journal.share_running([], ["mine"])
    await journal.close()
