"""What goes wrong around a session: ranks that die or hang, clients that vanish or do not read, drains."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from cascade.v1 import common_pb2, stage_pb2
from cascade_core.config import load_card_file
from cascade_core.engine.session import MAX_UNREAD_EVENTS
from services.stage.service import NAME
from tests.engine_support import stop, wait_until, write_card
from tests.paths import ROOT
from tests.services.common.test_gpus import FakeNvml
from tests.services.common.test_health import NOT_SERVING, SERVING, until
from tests.services.support.stage_support import (
    MANY,
    WAIT_S,
    Response,
    Running,
    kinds,
    serving,
    stage_settings,
)

STARTING, READY = common_pb2.SERVING_STATE_STARTING, common_pb2.SERVING_STATE_READY
RESTARTING, DRAINING = common_pb2.SERVING_STATE_RESTARTING, common_pb2.SERVING_STATE_DRAINING
UNHEALTHY = common_pb2.SERVING_STATE_UNHEALTHY
CLIENT = """
import asyncio, sys
from pathlib import Path
from tests.services.support.stage_support import MANY, Running
import grpc
async def main():
    stage = Running(None, None, grpc.aio.insecure_channel(sys.argv[1]))
    stream = await stage.opened(session="of a process", credit_end_block=MANY)
    print("open", flush=True)
    while True:
        await stream.read()
asyncio.run(main())
"""


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return write_card(tmp_path)


shared = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """For tests that leave its ranks as they were."""
    async with serving(stage_settings(write_card(tmp_path_factory.mktemp("card")))) as running:
        yield running
        assert running.engine.status.num_restarts == 0


async def free(stage: Running) -> None:
    """Until no session holds anything here."""
    await asyncio.wait_for(stage.stage.occupancy.empty.wait(), 2 * WAIT_S)
    assert stage.engine.status.num_sessions == 0


class TestRanks:
    async def test_a_killed_rank_ends_the_sessions_and_comes_back(self, card: Path) -> None:
        async with serving(stage_settings(card, stage={"num_ranks": 2})) as stage:
            await until(stage.channel, SERVING, NAME)
            streams = [await stage.opened(credit_end_block=end) for end in (0, MANY)]
            lost = asyncio.create_task(stage.until(RESTARTING))
            await asyncio.sleep(0)
            os.kill(stage.engine.status.process_ids[1], signal.SIGKILL)
            for stream in streams:
                assert await stream.reason() == "SESSION_LOST"
            assert (await lost).message == "the ranks start again"
            refused = stage.generate()
            await refused.open()
            assert await refused.reason() == "NOT_READY"
            assert (await stage.until(READY)).num_restarts == 1
            await until(stage.channel, SERVING, NAME)
            await free(stage)
            again = await stage.opened(session=streams[0].session, epoch=2, credit_end_block=1)
            await again.blocks(1)
            await again.close()
            assert stage.metric("cascade_stage_rank_restarts_total") == 1

    async def test_health_follows_progress(self, card: Path) -> None:
        settings = stage_settings(card, health={"stall_after_s": 1, "check_interval_s": 0.05})
        async with serving(settings) as stage:
            await until(stage.channel, SERVING, NAME)
            stream = await stage.opened(credit_end_block=1)
            await stream.blocks(1)
            rank = stage.engine.status.process_ids[0]
            await stop(rank)
            try:
                await asyncio.sleep(1.5)
                assert (await stage.status()).state == READY, "without credit nothing is expected"
                await stream.credit(MANY)
                await until(stage.channel, NOT_SERVING, NAME)
                status = await stage.until(UNHEALTHY)
                assert status.message.startswith("no ticks for")
                refused = stage.generate()
                await refused.open()
                assert await refused.reason() == "NOT_READY"
            finally:
                os.kill(rank, signal.SIGCONT)
            await until(stage.channel, SERVING, NAME)
            await stage.until(READY)
            assert kinds([await stream.read()])[0] == "block"  # type: ignore[list-item]
            assert stage.engine.status.num_restarts == 0

    async def test_a_hot_gpu_takes_the_stage_out_until_it_has_cooled(
        self, card: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nvml = FakeNvml()
        monkeypatch.setattr("services.common.gpus.driver", lambda: nvml)
        section = {"device": "auto", "num_ranks": 2, "gpu_check_interval_s": 0.02}
        async with serving(stage_settings(card, stage=section)) as stage:
            assert len((await stage.until(READY)).accelerators) == 2
            stream = await stage.opened()
            nvml.celsius = 99
            status = await stage.until(UNHEALTHY)
            assert status.message == "GPU 1: 99 degrees Celsius"
            assert [gpu.fault for gpu in status.accelerators] == ["", "99 degrees Celsius"]
            await until(stage.channel, NOT_SERVING, NAME)
            refused = stage.generate()
            await refused.open()
            assert await refused.reason() == "NOT_READY"
            nvml.celsius = 50
            await until(stage.channel, SERVING, NAME)
            await stream.credit(1)
            await stream.blocks(1)

    @shared
    async def test_a_text_encoder_that_hangs_holds_nothing_back(self, stage: Running) -> None:
        stream, late = await stage.opened(), await stage.opened()
        opening = stage.generate()
        rank = stage.engine.status.process_ids[0]
        await stop(rank)
        try:
            await stream.switch("a")
            await late.switch("b")
            await opening.open(prompts={0: "something new"})
            await wait_until(lambda: len(stage.stage.occupancy) == 3, "it is being opened")
            await stream.credit(1)
            await wait_until(lambda: stage.engine.has_work, "credit has arrived")
            await stream.close()
            late.call.cancel()
            opening.call.cancel()
            await free(stage)
            assert (await stage.status()).state == READY
        finally:
            os.kill(rank, signal.SIGCONT)
        again = await stage.opened(credit_end_block=1)
        await again.blocks(1)
        await again.close()
        assert stage.engine.status.num_restarts == 0

    @shared
    async def test_a_session_that_is_being_primed_can_be_left(self, stage: Running) -> None:
        source = await stage.opened(credit_end_block=1)
        context = await source.blocks(1)
        await source.close()
        rank = stage.engine.status.process_ids[0]
        await stop(rank)
        try:
            stream = stage.generate()
            await stream.open(context, start_block=1)
            await wait_until(lambda: stage.engine.status.num_sessions == 1, "the ranks are asked")
            stream.call.cancel()
            await free(stage)
        finally:
            os.kill(rank, signal.SIGCONT)
        again = await stage.opened(context=context, start_block=1, credit_end_block=2)
        await again.blocks(1)
        await again.close()
        assert stage.engine.status.num_sessions == 0

    async def test_it_answers_while_the_model_loads(self, card: Path) -> None:
        async with serving(stage_settings(card), start=False) as stage:
            assert (await stage.status()).state == STARTING
            await until(stage.channel, NOT_SERVING, NAME)
            starting = asyncio.create_task(stage.stage.start_engine())
            answers = 0
            while not starting.done():
                stream = stage.generate()
                await stream.open()
                refused = asyncio.create_task(stream.reason())
                await asyncio.wait({refused, starting}, return_when=asyncio.FIRST_COMPLETED)
                if not refused.done():  # it may be one of the first that are taken
                    refused.cancel()
                    break
                answers += refused.result() == "NOT_READY"
                await asyncio.sleep(0.05)
            assert answers > 1
            await starting
            status = await stage.until(READY)
            await until(stage.channel, SERVING, NAME)
            assert (status.model.model, status.model.revision, status.device) == ("tiny", "random", "cpu")
            assert status.max_sessions > 0
            assert list(status.accelerators) == []


class TestClients:
    @pytest.mark.slow
    async def test_one_that_does_not_read_is_bounded_and_alone(self, card: Path) -> None:
        """Blocks of 256 kB, so that HTTP/2's own buffers hold few."""
        async with serving(stage_settings(card, stage={"max_pixels": 2**20})) as stage:
            stream = stage.generate()
            stream.shape = (1, 16, 64, 64)
            await stream.open(width=512, height=512, credit_end_block=MANY)
            await stream.expect("opened")
            await wait_until(lambda: stage.engine.status.num_blocks > MAX_UNREAD_EVENTS, "blocks are made")
            await wait_until(lambda: not stage.engine.has_work, "generation stops")
            made = stage.engine.status.num_blocks
            assert next(iter(stage.engine._sessions.values()))._events.qsize() <= MAX_UNREAD_EVENTS
            assert made < 200
            other = await stage.opened(num_blocks=20, credit_end_block=MANY)
            assert len((await other.rest())[:-1]) == 20
            assert stage.engine.status.num_blocks == made + 20
            assert list(await stream.blocks(made + 10)) == list(range(made + 10)), "nothing was lost"
            stream.call.cancel()
            await free(stage)

    @shared
    async def test_many_that_say_nothing(self, stage: Running) -> None:
        silent = [stage.generate() for _ in range(500)]
        stream = await stage.opened(num_blocks=3, credit_end_block=3)
        await stream.blocks(3)
        await stream.expect("ended")
        assert await stream.read() is None
        for each in silent:
            each.call.cancel()
        await free(stage)

    @shared
    @pytest.mark.parametrize("reading", [False, True])
    async def test_one_that_cancels(self, stage: Running, reading: bool) -> None:
        stream = await stage.opened(credit_end_block=MANY)
        if reading:
            await stream.blocks(3)
        half_open = stage.generate()
        await half_open.open(start_block=2, num_context_blocks=2)
        await wait_until(lambda: len(stage.stage.occupancy) == 2, "both are in")
        stream.call.cancel()
        half_open.call.cancel()
        await free(stage)

    @shared
    async def test_one_that_is_killed(self, stage: Running) -> None:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, f"127.0.0.1:{stage.server.port}",
            stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            assert client.stdout
            assert await asyncio.wait_for(client.stdout.readline(), WAIT_S) == b"open\n"
            assert len(stage.stage.occupancy) == 1
        finally:
            client.kill()
            await client.wait()
        await free(stage)

    @pytest.mark.slow
    async def test_one_behind_a_dead_connection(self, card: Path) -> None:
        grpc_settings = {
            "port": 0,
            "keepalive_time_s": 1,
            "keepalive_timeout_s": 1,
            "min_ping_interval_s": 0.5,
        }
        async with (
            serving(stage_settings(card, grpc=grpc_settings)) as stage,
            proxy(stage.server.port) as (port, freeze),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            stream = await Running(stage.server, stage.stage, channel).opened(credit_end_block=2)
            await stream.blocks(2)
            freeze.set()
            await free(stage)


@asynccontextmanager
async def proxy(target: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A connection in between; once the event is set, nothing passes, and nobody is told."""
    frozen = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            if frozen.is_set():
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        tasks.extend(asyncio.create_task(pass_on(*ends)) for ends in ((reader, back), (there, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], frozen
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def drain(stage: Running, request_id: str, **fields: Any) -> common_pb2.DrainStatus:
    request = stage_pb2.StageServiceDrainRequest(request_id=request_id, **fields)
    return (await stage.stub.Drain(request, timeout=WAIT_S)).drain


class TestDrain:
    async def test_in_band_once_then_the_deadline(self, card: Path) -> None:
        async with serving(stage_settings(card)) as stage:
            stream = await stage.opened(credit_end_block=1)
            unread = await stage.opened(credit_end_block=MANY)
            leaving = await stage.opened()
            await stream.blocks(1)
            answer = await drain(stage, "one", timeout=Duration(seconds=600), reason="upgrade")
            assert (answer.num_sessions, answer.safe_to_delete, answer.reason) == (3, False, "upgrade")
            assert 590 < answer.time_left.ToSeconds() <= 600
            for each in (stream, leaving):
                assert (await each.expect("draining")).time_left.ToSeconds() > 590
            await leaving.close()
            refused = stage.generate()
            await refused.open()
            assert await refused.reason() == "DRAINING"
            await until(stage.channel, NOT_SERVING, NAME)
            await stream.credit(2)
            await stream.blocks(1)
            assert (await stage.until(DRAINING)).drain.num_sessions == 2
            later = await drain(stage, "two", timeout=Duration(seconds=3600))
            assert later.time_left.ToSeconds() <= 600, "it can only come nearer"
            assert (
                await drain(stage, "one", timeout=Duration(seconds=600), reason="upgrade")
            ).reason == "upgrade"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await drain(stage, "one", timeout=Duration(seconds=1), reason="upgrade")
            assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
            await drain(stage, "three", timeout=Duration(nanos=200_000_000))
            messages = await stream.rest()
            assert kinds(messages) == [], "announced once"
            assert (await stream.details())["ErrorInfo"].reason == "DRAINING"
            assert await unread.reason() == "DRAINING"
            await free(stage)
            status = await stage.status()
            assert status.drain.safe_to_delete
            assert status.state == DRAINING

    async def test_a_stream_that_still_opens_is_ended_too(self, card: Path) -> None:
        async with serving(stage_settings(card)) as stage:
            stream = stage.generate()
            await stream.open(start_block=1, num_context_blocks=1)
            await wait_until(lambda: len(stage.stage.occupancy) == 1, "it is in")
            assert (await drain(stage, "now", timeout=Duration())).num_sessions == 1
            assert await stream.reason() == "DRAINING"

    async def test_the_default_is_five_minutes(self, card: Path) -> None:
        async with serving(stage_settings(card), start=False) as stage:
            assert 290 < (await drain(stage, "one")).time_left.ToSeconds() <= 300

    async def test_the_servers_end_drains_in_band(self, card: Path) -> None:
        async with serving(stage_settings(card)) as stage:
            stream = await stage.opened()
            watch = stage.stub.WatchStatus(stage_pb2.StageServiceWatchStatusRequest(), timeout=WAIT_S)
            assert (await watch.read()).status.state == READY
            closing = asyncio.create_task(stage.server.close())
            await stream.expect("draining")
            await stream.send(close={})
            assert (await stream.expect("ended")).reason == Response.Ended.REASON_CLOSED
            reports = []
            while (report := await watch.read()) is not grpc.aio.EOF:
                reports.append(report.status)
            assert reports[-1].state == DRAINING
            assert reports[-1].drain.safe_to_delete
            assert await watch.code() is grpc.StatusCode.OK
            await asyncio.wait_for(closing, WAIT_S)


async def test_status_comes_at_every_change_and_at_least_so_often(card: Path) -> None:
    async with serving(stage_settings(card)) as stage:
        rare = stage_pb2.StageServiceWatchStatusRequest(interval=Duration(seconds=60))
        watch = stage.stub.WatchStatus(rare, timeout=WAIT_S)
        first = (await watch.read()).status
        assert (first.num_sessions, first.num_blocks, first.world_size) == (0, 0, 1)
        assert first.model.max_prompt_tokens == load_card_file(card).transformer.text_len
        stream = await stage.opened(credit_end_block=1)
        last = first
        while not last.num_sessions:
            last = (await watch.read()).status
        await stream.blocks(1)
        await stream.close()
        while last.num_sessions or not last.num_blocks:
            last = (await watch.read()).status
        assert last.num_blocks == 1
        assert last.median_tick_time.ToNanoseconds() > 0
        assert last.server == first.server
        often = stage_pb2.StageServiceWatchStatusRequest(interval=Duration(nanos=100_000_000))
        repeats = stage.stub.WatchStatus(often, timeout=WAIT_S)
        states = [(await repeats.read()).status.state for _ in range(4)]
        assert states == [READY] * 4
        assert stage.metric("cascade_stage_blocks_total") == 1
        assert stage.metric("cascade_stage_tick_seconds_count") > 1
        assert stage.metric("cascade_stage_slots") == first.max_sessions
