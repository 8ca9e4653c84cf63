"""A gateway whose sessions another one has taken over meanwhile leaves them, and that is no error."""

import asyncio
import gc
import logging

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

from services.gateway.journal import Lease, connect
from services.gateway.journal.errors import LeaseHeld, LeaseLost
from services.gateway.journal.replicated import ReplicatedJournal
from services.gateway.session.live import to_its_end
from tests.services.support.gateway_support import until
from tests.services.support.redis_support import RedisServer, needs_redis
from tests.services.support.two_gateways import Pair, pair

pytestmark = needs_redis
NUM = 6


def samples(registry: CollectorRegistry) -> list[Sample]:
    return [sample for metric in registry.collect() for sample in metric.samples]


async def taken_over(both: Pair, redis: RedisServer) -> None:
    """The first gateway cannot reach Redis until the second has its sessions, then it can again."""
    journal = both.first.registry.shared.journal
    assert isinstance(journal, ReplicatedJournal)
    line, journal._store._client = journal._store._client, connect(f"unix://{redis.folder}/cut")
    await until(lambda: len(both.second.registry.sessions) == NUM)
    journal._store._client = line
    await until(lambda: not both.first.registry.sessions)


def check_no_error(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """In what was logged; asyncio tells of errors that nobody has heard once their tasks are collected."""
    gc.collect()
    out = capsys.readouterr().out
    assert not [line for line in out.splitlines() if "[error" in line or "Traceback" in line]
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_fencing_is_no_error(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async with pair(redis) as both:
        names = [await both.first.acme.name() for _ in range(NUM)]
        streams = [both.first.acme.stream() for _ in names]
        for name, stream in zip(names, streams, strict=True):
            await stream.attach(name=name)
        await asyncio.gather(*(stream.until_segments(2) for stream in streams[:3]))
        await taken_over(both, redis)
        await asyncio.gather(*(stream.until_over() for stream in streams))
        for name in names[:2]:
            await both.first.acme.delete(name)
    check_no_error(caplog, capsys)


async def test_a_takeover_that_fails_for_clients_that_have_left_is_none(
    redis: RedisServer,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pair(redis) as both:
        name = await both.first.acme.name()
        journal, is_asked, may_go_on = both.second.registry.shared.journal, asyncio.Event(), asyncio.Event()

        async def slowly(session: str, owner: str, lease_s: float) -> Lease:
            is_asked.set()
            await may_go_on.wait()
            raise LeaseHeld(session, "another", lease_s)

        monkeypatch.setattr(journal, "claim", slowly)
        await both.first.kill()
        asking = asyncio.create_task(both.second.acme.get(name))
        await is_asked.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        ended = {"grpc_method": "GetSession", "grpc_code": "CANCELLED"}
        registry = both.second.server.telemetry.registry
        await until(lambda: any(ended.items() <= sample.labels.items() for sample in samples(registry)))
        may_go_on.set()
        await until(lambda: not both.second.registry._takeovers)
    check_no_error(caplog, capsys)


async def test_a_write_that_fails_while_its_session_is_stopped_is_none(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    is_begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        is_begun.set()
        await may_go_on.wait()
        raise LeaseLost("another owner took over", epoch=2)

    writing = asyncio.create_task(to_its_end(write()))
    await is_begun.wait()
    writing.cancel()
    for _ in range(3):  # until it has heard of that
        await asyncio.sleep(0)
    may_go_on.set()
    (ended,) = await asyncio.gather(writing, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError)
    del writing, ended
    await asyncio.sleep(0)  # the loop lets go of it
    check_no_error(caplog, capsys)
