"""The worker dies, hangs or cannot load: sessions end as lost, health tells, the worker comes back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from cascade.v1 import common_pb2
from services.decoder.messages import DecodeBlock
from services.decoder.service import NAME
from tests.services.common.test_gpus import FakeNvml
from tests.services.common.test_health import NOT_SERVING, SERVING, until
from tests.services.support.decoder_support import (
    QUICK,
    READY,
    WAIT_S,
    Serving,
    block,
    gone,
    is_running,
    opening,
    process,
    reason,
    serving,
    start_process,
)

RESTARTING = common_pb2.SERVING_STATE_RESTARTING
UNHEALTHY = common_pb2.SERVING_STATE_UNHEALTHY
STARTING = common_pb2.SERVING_STATE_STARTING
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def decoder() -> AsyncIterator[Serving]:
    """Its worker is lost again and again."""
    settings = QUICK | {"block_deadline_s": 5}
    async with serving(decoder=settings, health={"stall_after_s": 0.3, "check_interval_s": 0.02}) as decoder:
        yield decoder


async def test_a_killed_worker_loses_all_sessions_and_comes_back(decoder: Serving) -> None:
    before = await decoder.ready()
    await until(decoder.channel, SERVING, NAME)
    first, num_lost = decoder.worker, decoder.sample("cascade_decoder_sessions_lost_total")
    calls = []
    for number in range(2):
        calls.append(call := decoder.call())
        await call.send(opening(session=f"s{number}"))
        await call.opened()
        await call.ask(0)
    restarting = asyncio.ensure_future(decoder.until(lambda status: status.state == RESTARTING))
    os.kill(first, signal.SIGKILL)
    assert [await call.fails() for call in calls] == ["SESSION_LOST"] * 2
    early = decoder.call()
    await early.send(opening(session="early"))
    assert await early.fails() == "NOT_READY"
    assert "SIGKILL" in (await restarting).message or "-9" in (await restarting).message
    status = await decoder.ready()
    await until(decoder.channel, SERVING, NAME)
    assert (status.num_restarts, status.num_sessions) == (before.num_restarts + 1, 0)
    assert decoder.worker != first
    assert decoder.sample("cascade_decoder_restarts_total") == status.num_restarts
    assert decoder.sample("cascade_decoder_sessions_lost_total") == num_lost + 2
    again = decoder.call()
    await again.send(opening(session="s0", epoch=2, start_block=1, num_warmup_blocks=1), block(0))
    await again.opened()
    await again.ask(1)
    again.stream.cancel()


@pytest.mark.slow
async def test_a_stopped_worker_stalls_health_then_is_killed_at_its_deadline(decoder: Serving) -> None:
    before = await decoder.ready()
    call = decoder.call()
    await call.send(opening())
    await call.opened()
    worker = decoder.worker
    os.kill(worker, signal.SIGSTOP)
    await call.send(block(0))
    stalled = await decoder.until(lambda status: status.state == UNHEALTHY)
    assert stalled.message.startswith("no blocks for")
    await until(decoder.channel, NOT_SERVING, NAME)
    assert is_running(worker), "health tells before the worker is given up"
    assert await call.fails() == "SESSION_LOST"
    await gone(worker)
    status = await decoder.ready()
    await until(decoder.channel, SERVING, NAME)
    assert status.num_restarts == before.num_restarts + 1


async def test_an_idle_worker_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.decoder.feeder.PING_S", 0.1)
    async with serving(decoder=QUICK | {"block_deadline_s": 2}) as decoder:
        worker = decoder.worker
        os.kill(worker, signal.SIGSTOP)
        await decoder.until(lambda status: status.num_restarts > 0)
        assert not is_running(worker)


@pytest.mark.slow
async def test_a_bug_in_the_worker_ends_it_and_it_comes_back(decoder: Serving) -> None:
    """An error that nobody planned for: a job that the service would never send."""
    before = await decoder.ready()
    call = decoder.call()
    await call.send(opening())
    await call.opened()
    feeder = decoder.decoder.dispatcher._feeder
    assert feeder
    feeder.process.post(DecodeBlock(0, 0, "float32", (3, 16, 12, 12), b"1234", False, 0.0))
    assert await call.fails() == "SESSION_LOST"
    restarts = before.num_restarts + 1
    status = await decoder.until(lambda status: status.state == READY and status.num_restarts == restarts)
    assert not status.num_sessions
    call = decoder.call()
    await call.send(opening(), block(0))
    await call.opened()
    await call.expect("segment")
    call.stream.cancel()


@pytest.mark.slow
async def test_a_hot_gpu_takes_the_decoder_out_until_it_has_cooled(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setattr("services.common.gpus.driver", lambda: nvml)
    async with serving(decoder=QUICK | {"gpu_check_interval_s": 0.02}) as decoder:
        status = await decoder.until(lambda status: len(status.accelerators) == 2)
        assert status.state == READY
        assert status.accelerators[0].product == "NVIDIA H100"
        nvml.celsius = 99
        status = await decoder.until(lambda status: status.state == UNHEALTHY)
        assert status.message == "GPU 1: 99 degrees Celsius"
        assert [gpu.fault for gpu in status.accelerators] == ["", "99 degrees Celsius"]
        await until(decoder.channel, NOT_SERVING, NAME)
        call = decoder.call()
        await call.send(opening())
        assert await call.fails() == "NOT_READY"
        nvml.celsius = 50
        await until(decoder.channel, SERVING, NAME)


async def test_nothing_is_taken_while_the_worker_starts() -> None:
    async with serving(decoder=QUICK, wait=False) as decoder:
        await until(decoder.channel, NOT_SERVING, NAME)
        status = await decoder.until(lambda status: True)
        assert status.state == STARTING
        call = decoder.call()
        await call.send(opening(session="s"))
        error = await call.error()
        assert (reason(error), error.code()) == ("NOT_READY", grpc.StatusCode.UNAVAILABLE)
        await decoder.ready()
        await until(decoder.channel, SERVING, NAME)
        call = decoder.call()
        await call.send(opening(session="s"))
        await call.opened()
        call.stream.cancel()


async def test_weights_that_are_not_there_are_told_and_tried_again(tmp_path: Path) -> None:
    async with serving(decoder={"weights": str(tmp_path)}, wait=False) as decoder:
        status = await decoder.until(lambda status: status.state == UNHEALTHY)
        assert "no vae in" in status.message
        await decoder.until(lambda status: status.num_restarts > 0)
        await until(decoder.channel, NOT_SERVING, NAME)


async def test_the_worker_dies_with_its_service() -> None:
    async with process() as decoder:
        call = decoder.call()
        await call.send(opening())
        await call.opened()
        assert is_running(decoder.worker)
        os.kill(decoder.process.pid, signal.SIGKILL)
        await gone(decoder.worker)


async def test_a_bad_setting_ends_the_process_with_its_name() -> None:
    for variable, value in (("CASCADE_DECODER_CRF", "99"), ("CASCADE_DECODER_MODEL", "nobody")):
        child = await start_process(**{variable: value})
        _, said = await asyncio.wait_for(child.communicate(), WAIT_S)
        assert child.returncode == 1
        name = "decoder.model" if variable.endswith("MODEL") else variable
        assert said.decode().startswith(f"decoder: {name}: "), said
