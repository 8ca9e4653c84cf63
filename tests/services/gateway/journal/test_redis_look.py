"""What a gateway finds out of the Redis that it is given, at its start and when Redis is back."""

import asyncio
import logging
from pathlib import Path

import pytest

from cascade_core.errors import InvalidConfig
from services.gateway.app.assembly import running
from services.gateway.journal import RedisStore, connect
from services.gateway.journal.errors import StoreUnavailable
from tests.services.support.gateway_support import gateway_settings, town
from tests.services.support.journal_support import blocks, caught_up, opened, replicated, until
from tests.services.support.redis_support import RedisServer, needs_redis

pytestmark = needs_redis
DROPS = "this Redis drops sessions when its memory is full, by maxmemory-policy allkeys-lru"


def let_evict(server: RedisServer, policy: str = "allkeys-lru") -> None:
    server.command("CONFIG", "SET", "maxmemory-policy", policy)
    server.command("CONFIG", "SET", "maxmemory", "100mb")


async def test_a_redis_that_drops_keys_is_named_in_the_log_and_in_the_metrics(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    let_evict(redis)
    (tmp_path / "token").write_bytes(bytes(32))
    values = {"redis_url": redis.url, "token_key_file": tmp_path / "token", "advertise": "127.0.0.1:1"}
    async with town(**values) as place:
        assert caplog.text.count(DROPS) == 1
        assert place.metric("cascade_journal_may_evict") == 1
    let_evict(redis, "noeviction")
    async with town(**values) as place:
        assert place.metric("cascade_journal_may_evict") == 0
    assert caplog.text.count(DROPS) == 1


async def test_it_is_looked_at_again_when_redis_is_back(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    journal = replicated(redis)
    await journal.start()
    lease = await opened(journal)
    assert not journal.may_evict
    redis.kill()
    await journal.write(lease, *blocks(0, 1))
    assert not journal.is_connected
    redis._options |= {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    redis.start()
    await until(lambda: journal.may_evict)
    assert DROPS in caplog.text
    await journal.close()


async def test_one_that_is_away_at_the_start_is_looked_at_when_it_comes(redis: RedisServer) -> None:
    let_evict(redis)
    redis.kill()
    journal = replicated(redis)
    await journal.start()
    redis._options |= {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    redis.start()
    await until(lambda: journal.may_evict)
    await caught_up(journal)
    await journal.close()


async def test_a_managed_one_that_answers_no_such_questions_is_taken(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.command("ACL", "SETUSER", "default", "-config", "-cluster")
    journal = replicated(redis)
    await journal.start()
    await journal.write(await opened(journal), *blocks(0, 1))
    assert (journal.may_evict, journal.is_connected) == (False, True)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await journal.close()


async def test_a_cluster_of_several_primaries_is_refused_at_the_start_and_one_of_one_is_not(
    tmp_path: Path,
) -> None:
    one, other = RedisServer(cluster=True), RedisServer(cluster=True)
    try:
        journal = replicated(one)
        await journal.start()
        await journal.close()
        one.command("CLUSTER", "DELSLOTSRANGE", "8192", "16383")
        other.command("CLUSTER", "DELSLOTSRANGE", "0", "8191")
        one.command("CLUSTER", "MEET", *other.address.split(":"))
        for server in (one, other):
            server._until("cluster_size:2", "CLUSTER", "INFO")
        values = {"redis_url": one.url, "token_key_file": tmp_path / "token", "advertise": "127.0.0.1:1"}
        (tmp_path / "token").write_bytes(bytes(32))
        with pytest.raises(InvalidConfig, match=r"^gateway\.redis_url: names one of 2 primaries"):
            await running(gateway_settings([], [], **values)).__aenter__()
    finally:
        one.close()
        other.close()


async def test_nobody_goes_by_a_clock_that_redis_has_not_told(redis: RedisServer) -> None:
    redis.kill()
    journal = replicated(redis)
    await journal.start()
    with pytest.raises(StoreUnavailable):
        journal.clock()
    redis.start()
    await caught_up(journal)
    await until(lambda: journal._store._ahead_s is not None)
    assert abs(journal.clock() - float(redis.command("TIME").split()[2])) < 60
    await journal.close()


async def test_the_log_has_the_cause_once_and_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    """Clients are told in a sentence what it means for them."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(2**16):
            writer.write(b"-ERR unknown command 'AUTH', with args beginning with: 's3cret'\r\n" * 3)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = RedisStore(connect(f"redis://:s3cret@127.0.0.1:{port}"))
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match=r"^the journal's store [a-z ]+$"):
            await store.load("s1")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "unknown command 'AUTH', with args beginning with: '***'" in line
    await store.close()
    server.close()
