"""Lists of sessions whose prompts are large: what is read for them, and that no session waits for it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from services.gateway.journal import Ended, Limits, MemoryJournal, Noted
from services.gateway.journal.base import PAGE_BYTES, Journal
from services.gateway.journal.errors import StoreUnavailable
from services.gateway.journal.redis_address import connect
from tests.services.support.journal_support import blocks, opened, replicated
from tests.services.support.redis_support import RedisServer, needs_redis

LIMITS = Limits(num_segments=4, max_bytes=2**26)
LARGE = {"specification": b"s" * 2**20, "prompts": dict.fromkeys(range(32), "p" * 2**15)}
NUM = 5


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer(persistent=False)
    yield server
    server.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
def journals(request: pytest.FixtureRequest) -> tuple[Journal, Journal]:
    """Those of two gateways."""
    if request.param == "memory":
        journal = MemoryJournal()
        return journal, journal
    server: RedisServer = request.getfixturevalue("redis")
    server.command("FLUSHALL")
    return replicated(server), replicated(server)


def num_read(server: RedisServer) -> int:
    """Bytes that Redis has sent."""
    lines = server.command("INFO", "stats").splitlines()
    return next(int(line.split(":")[1]) for line in lines if line.startswith("total_net_output_bytes:"))


async def all_pages(journal: Journal) -> tuple[list[str], int]:
    """(sessions, pages)."""
    found, token, num_pages = [], "", 0
    while True:
        page = await journal.list_sessions("acme", token)
        found += [summary.record.session for summary in page.sessions]
        token, num_pages = page.next_page_token, num_pages + 1
        if not token:
            return found, num_pages


async def filled(journal: Journal, **values: Any) -> list[str]:
    """Names of large sessions, newest first."""
    names = [f"s{number}" for number in range(NUM)]
    for name in names:
        await opened(journal, session=name, limits=LIMITS, **(LARGE | values))
    return names[::-1]


async def test_a_list_reads_small_heads(journals: tuple[Journal, Journal]) -> None:
    journal, other = journals
    names = await filled(journal, brief=b"short")
    assert await all_pages(other) == (names, 1)
    summaries = (await other.list_sessions("acme")).sessions
    assert all(summary.record.origin.specification == b"short" for summary in summaries)
    assert not any(summary.record.prompts for summary in summaries)
    for each in journals:
        await each.close()


async def test_a_page_is_short_where_what_it_shows_is_large(journals: tuple[Journal, Journal]) -> None:
    journal, other = journals
    names = await filled(journal, brief=b"b" * 2**19)
    found, num_pages = await all_pages(other)
    assert (found, num_pages > 1) == (names, True)
    for each in journals:
        await each.close()


@needs_redis
async def test_what_is_read_is_bounded_for_sessions_of_a_former_release_too(redis: RedisServer) -> None:
    """They have no brief: each is read whole, and no page reads more than one beyond its bound."""
    redis.command("FLUSHALL")
    journal, other = replicated(redis), replicated(redis)
    names = await filled(journal, brief=b"short")
    before = num_read(redis)
    await all_pages(other)
    assert num_read(redis) - before < 100_000
    for name in names:
        redis.command("HDEL", f"test:{{{name}}}:head", "brief")
    before = num_read(redis)
    page = await other.list_sessions("acme")
    assert num_read(redis) - before < PAGE_BYTES + 4 * 2**20, "one session"
    assert page.next_page_token
    assert (await all_pages(other))[0] == names
    for each in (journal, other):
        await each.close()


@needs_redis
async def test_neither_prompts_nor_media_are_read_where_nobody_asks_for_them(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    journal, other = replicated(redis), replicated(redis)
    lease = await opened(journal, limits=LIMITS, brief=b"short", **LARGE)
    await journal.write(lease, *(replace(change, data=bytes(2**20)) for change in blocks(0, 2)))
    await journal.write(lease, Noted("state", b"S"), Noted("init/x", bytes(2**16)))
    before = num_read(redis)
    summary = await other.summary("s1")
    assert num_read(redis) - before < 50_000
    assert (summary.record.tenant, summary.record.notes) == ("acme", {"state": b"S"})
    await journal.write(lease, Ended(b"over"))
    before = num_read(redis)
    record = await other.head("s1")
    assert (record.end, len(record.prompts)) == (b"over", 32)
    assert num_read(redis) - before < 6 * 2**20, "the head alone"
    for each in (journal, other):
        await each.close()


@needs_redis
async def test_lists_that_fail_are_no_loss_of_the_journal(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    journal, other = replicated(redis), replicated(redis)
    lease = await opened(journal)
    assert len((await journal.list_sessions("acme")).sessions) == 1
    journal._store.reads._client = connect(f"unix://{redis.folder}/cut")
    with pytest.raises(StoreUnavailable):
        await journal.list_sessions("acme")
    await journal.write(lease, *blocks(0, 1))
    assert journal.is_connected
    assert (await other.load("s1")).next_decoder_block == 1
    for each in (journal, other):
        await each.close()


@needs_redis
async def test_a_former_release_can_read_what_this_one_writes(redis: RedisServer) -> None:
    """It takes a head's `origin` with these fields and no others, and passes over what it does not know."""
    redis.command("FLUSHALL")
    journal, client = replicated(redis), connect(redis.url)
    await opened(journal, request_id="r", brief=b"short")
    known = {"session", "tenant", "specification", "prompts", "request_id", "limits", "switch_mode"}
    assert set(json.loads(await client.hget("test:{s1}:head", "origin"))) == known
    await client.hdel("test:{s1}:head", "brief")
    other = replicated(redis)
    assert await other.load("s1") == await journal.load("s1")
    for each in (journal, other):
        await each.close()
    await client.aclose()
