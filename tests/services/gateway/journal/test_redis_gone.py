"""A journal whose Redis is away, comes back with less than it had, or has other owners meanwhile."""

import asyncio
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from services.gateway.journal import (
    Acked,
    Ended,
    Lease,
    Noted,
    RedisStore,
    ReplicatedJournal,
    connect,
)
from services.gateway.journal.codec import Update
from services.gateway.journal.errors import (
    LeaseHeld,
    LeaseLost,
    NoSuchSession,
    OutOfOrder,
    StoreUnavailable,
)
from tests.services.support.front import Front
from tests.services.support.journal_support import (
    LEASE_S,
    LIMITS,
    WAIT_S,
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


@needs_redis
class TestRedisGone:
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
            await until(lambda: other.command("EXISTS", "test:{s1}:data").startswith(":1"))
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


async def backup(client: Redis) -> dict[bytes, bytes]:
    """Every session's keys as they are."""
    return {key: await client.dump(key) async for key in client.scan_iter("test:{*")}


async def restore(client: Redis, keys: dict[bytes, bytes]) -> None:
    """Those keys alone, as they were."""
    await client.flushall()
    for key, value in keys.items():
        await client.restore(key, 3_600_000, value)
