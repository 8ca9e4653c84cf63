"""How many open sessions a tenant has, counted by several gateways at once."""

import asyncio

import pytest

from services.gateway.journal import Creation, Ended, Journal
from services.gateway.journal.errors import SessionTaken, StoreUnavailable, TooManyOpen
from services.gateway.journal.record import new_record
from services.gateway.journal.redis_store import CREATING_S
from services.gateway.journal.replicated import ReplicatedJournal
from tests.services.support.journal_support import LEASE_S, Site, new, replicated
from tests.services.support.redis_support import RedisServer, needs_redis

LIMIT = 5


async def create(journal: Journal, session: str, request_id: str = "", limit: int = LIMIT) -> Creation:
    return await journal.create(new(session, request_id), "a", LEASE_S, limit)


def num_made(answers: list[Creation | BaseException]) -> int:
    """The others were refused for the quota's sake."""
    others = [answer for answer in answers if not isinstance(answer, Creation)]
    assert all(isinstance(other, TooManyOpen) for other in others), others
    return sum(answer.is_new for answer in answers if isinstance(answer, Creation))


async def test_many_at_once_never_pass_the_limit(site: Site) -> None:
    for turn in range(4):
        calls = [create(site.journal(n % 2), f"s{turn}-{n}") for n in range(20)]
        assert num_made(await asyncio.gather(*calls, return_exceptions=True)) == LIMIT
        assert await site.journal(1).num_open("acme") == LIMIT
        for summary in (await site.journal(0).list_sessions("acme")).sessions:
            if not summary.record.end:
                lease = await site.journal(0).claim(summary.record.session, "a", LEASE_S)
                await site.journal(0).write(lease, Ended(b"over"))
    assert await site.journal(0).num_open("acme") == 0


async def test_repeats_count_once_and_are_never_refused(site: Site) -> None:
    for turn in range(3):
        calls = [create(site.journal(n % 2), f"s{turn}-{n}", f"r{turn}", turn + 1) for n in range(10)]
        answers = await asyncio.gather(*calls)
        assert sum(answer.is_new for answer in answers) == 1
        assert len({answer.session for answer in answers}) == 1
    assert await site.journal(0).num_open("acme") == 3
    assert not (await create(site.journal(1), "other", "r0", 1)).is_new
    with pytest.raises(TooManyOpen, match=r"^3 of 3 sessions are open$"):
        await create(site.journal(1), "other", "r4", 3)
    assert (await create(site.journal(1), "other", "r4", 4)).session == "other"


async def test_another_tenants_sessions_do_not_count(site: Site) -> None:
    await create(site.journal(0), "s1", limit=1)
    theirs = new("s2", tenant="rival")
    assert (await site.journal(1).create(theirs, "b", LEASE_S, 1)).is_new
    with pytest.raises(SessionTaken):
        await create(site.journal(1), "s2", limit=2)
    assert (await create(site.journal(1), "s3", limit=2)).is_new


@needs_redis
async def test_what_a_gateway_left_half_made_counts_for_a_while(server: RedisServer) -> None:
    server.command("FLUSHALL")
    site = Site(server)
    first, other = site.journal(0), site.journal(1)
    assert isinstance(first, ReplicatedJournal)
    record = new_record(new("s1"), int(site.clock() * 1000))
    dying = first._store.room(record, 1)
    await dying.__aenter__()
    with pytest.raises(TooManyOpen):
        await create(other, "s2", limit=1)
    site.clock.now_s += CREATING_S
    assert (await create(other, "s2", limit=1)).is_new
    await site.close()


@needs_redis
async def test_a_creation_that_nobody_knows_of_counts_until_it_is_known(server: RedisServer) -> None:
    server.command("FLUSHALL")
    journal, other = replicated(server), replicated(server)
    make = journal._store.create

    async def losing(*arguments: object) -> bool:
        await make(*arguments)  # type: ignore[arg-type]
        raise StoreUnavailable("the answer was lost")

    journal._store.create = losing  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await create(journal, "s1", "r", 1)
    with pytest.raises(TooManyOpen):
        await create(other, "s2", limit=1)
    assert (await create(other, "s2", "r", 1)).session == "s1"
    await other.claim("s1", "a", LEASE_S)
    with pytest.raises(TooManyOpen):
        await create(other, "s2", limit=1)
    for each in (journal, other):
        await each.close()
