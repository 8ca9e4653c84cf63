"""Ranks that die, hang, fail or cannot start, and engines that are closed at a bad moment."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import pytest_asyncio
import torch

from cascade_core.engine.engine import Engine
from cascade_core.engine.session import Session
from cascade_core.errors import OutOfCapacity, SessionClosed, SessionLost, WeightsError
from cascade_core.ranks import group as group_module
from cascade_core.ranks import ranks as ranks_module
from cascade_core.ranks.messages import Command, Drop, Load, Open, Tick
from cascade_core.ranks.pipe import HEADER, pack
from cascade_core.request import SessionRequest
from cascade_core.schedule import TickPlan, Work
from cascade_core.weights.locate import ModelFiles
from tests.engine_support import (
    PROMPT,
    WAIT_S,
    assert_same,
    back_again,
    collect,
    engine_config,
    generate,
    is_running,
    rank_processes,
    read_blocks,
    running_engine,
    stop,
    wait_until,
)
from tests.paths import ROOT

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.filterwarnings("error")]

NUM_RANKS = 2
NUM_BLOCKS = 8
TICK_DEADLINE_S = 3.0
REQUEST = SessionRequest({0: PROMPT}, seed=7)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(card: Path) -> AsyncIterator[Engine]:
    """Serves all tests that break it: it comes back by itself."""
    async with running_engine(card, num_ranks=NUM_RANKS, tick_deadline_s=TICK_DEADLINE_S) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def solo(card: Path) -> AsyncIterator[Engine]:
    """One rank, for what does not depend on their number: it is back sooner."""
    async with running_engine(card) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(card: Path) -> AsyncIterator[Engine]:
    """In the same process as `engine`, and never touched by what happens to it."""
    async with running_engine(card, num_ranks=NUM_RANKS) as engine:
        processes = engine.status.process_ids
        yield engine
        assert engine.status.num_restarts == 0
        assert engine.status.process_ids == processes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(undisturbed: Engine) -> dict[int, torch.Tensor]:
    return await generate(undisturbed, NUM_BLOCKS)


async def streaming(engine: Engine) -> Session:
    """An endless session that has shown some blocks."""
    session = await engine.open(REQUEST)
    await read_blocks(session, 3)
    return session


async def assert_lost(session: Session) -> None:
    with pytest.raises(SessionLost) as lost:
        await collect(session)
    assert lost.value.retryable


def kill_all(processes: tuple[int, ...]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def send_to(engine: Engine, rank: int, command: Command) -> None:
    engine._ranks.group._ranks[rank].writer.write(pack(command))


class TestLosses:
    """Each ends the sessions with a retryable error; the next session is as if nothing had been."""

    @pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
    async def test_killed_rank(self, engine: Engine, expected: dict[int, torch.Tensor], rank: int) -> None:
        before = engine.status
        first, second = await streaming(engine), await streaming(engine)
        os.kill(before.process_ids[rank], signal.SIGKILL)
        await assert_lost(first)
        await assert_lost(second)
        await assert_lost(first)  # and again, for whoever asks later
        await back_again(engine, before.num_restarts + 1)
        assert not set(before.process_ids) & set(engine.status.process_ids)
        assert not any(map(is_running, before.process_ids))
        assert engine.status.num_sessions == 0
        assert_same(await generate(engine, NUM_BLOCKS), expected)

    async def test_killed_fork_server(self, engine: Engine, expected: dict[int, torch.Tensor]) -> None:
        """Nobody would hear of the ranks' end any more."""
        before = engine.status
        session = await streaming(engine)
        (server,) = {psutil.Process(rank).ppid() for rank in before.process_ids}
        os.kill(server, signal.SIGKILL)
        await assert_lost(session)
        await back_again(engine, before.num_restarts + 1)
        assert not any(map(is_running, (server, *before.process_ids)))
        assert_same(await generate(engine, NUM_BLOCKS), expected)

    async def test_rank_killed_while_idle(self, engine: Engine, expected: dict[int, torch.Tensor]) -> None:
        before = engine.status
        os.kill(before.process_ids[1], signal.SIGKILL)
        await back_again(engine, before.num_restarts + 1)
        assert_same(await generate(engine, NUM_BLOCKS), expected)

    async def test_rank_that_hangs_in_a_tick(self, engine: Engine, expected: dict[int, torch.Tensor]) -> None:
        before = engine.status
        session = await streaming(engine)
        await stop(before.process_ids[1])
        with pytest.raises(SessionLost, match="a tick took longer than 3 s"):
            await collect(session)
        await back_again(engine, before.num_restarts + 1)
        assert not any(map(is_running, before.process_ids))
        assert_same(await generate(engine, NUM_BLOCKS), expected)

    async def test_rank_that_raises_in_a_tick(
        self, engine: Engine, expected: dict[int, torch.Tensor]
    ) -> None:
        before = engine.status
        session = await streaming(engine)
        unknown = TickPlan(999, ranks=((Work(0, 0, 0),), ()))
        send_to(engine, 1, Tick(unknown))  # the other waits for it in a collective
        with pytest.raises(SessionLost, match="rank"):
            await collect(session)
        await back_again(engine, before.num_restarts + 1)
        assert_same(await generate(engine, NUM_BLOCKS), expected)

    @pytest.mark.slow
    async def test_rank_that_answers_nonsense(self, solo: Engine) -> None:
        """The engine's end of the link must not fall silent."""
        before = solo.status
        session = await streaming(solo)
        link = cast(asyncio.StreamReaderProtocol, solo._ranks.group._ranks[0].writer.transport.get_protocol())
        link.data_received(HEADER.pack(4) + b"junk")
        with pytest.raises(SessionLost, match="rank 0 answered what makes no sense"):
            await collect(session)
        await back_again(solo, before.num_restarts + 1)

    @pytest.mark.slow
    async def test_calls_under_way_when_the_ranks_die(
        self, engine: Engine, expected: dict[int, torch.Tensor]
    ) -> None:
        before = engine.status
        session = await streaming(engine)
        for process in before.process_ids:
            await stop(process)
        calls = [
            asyncio.create_task(engine.open(REQUEST)),
            asyncio.create_task(engine.open(SessionRequest({0: "never heard of"}))),
            asyncio.create_task(session.switch("nor of this")),
            asyncio.create_task(session.switch("behind the other switch")),
        ]
        await asyncio.sleep(0.05)
        kill_all(before.process_ids)
        async with asyncio.timeout(WAIT_S):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers[:3]] == [SessionLost] * 3
        assert isinstance(answers[3], SessionLost | SessionClosed | OutOfCapacity)
        await assert_lost(session)
        await back_again(engine, before.num_restarts + 1)
        assert_same(await generate(engine, NUM_BLOCKS), expected)

    @pytest.mark.slow
    async def test_a_session_that_is_being_primed(
        self, solo: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = solo.status
        video = await generate(solo, 4)
        given = {block: video[block] for block in solo.context_blocks(4)}
        rank, open_on_ranks = before.process_ids[0], solo._ranks.group.open

        async def open_and_stop(command: Open) -> None:
            await open_on_ranks(command)
            await stop(rank)

        monkeypatch.setattr(solo._ranks.group, "open", open_and_stop)
        opening = asyncio.create_task(solo.open(replace(REQUEST, start_block=4, context=given, credit=0)))
        await wait_until(lambda: solo.has_work, "it is being primed")
        assert not opening.done()
        os.kill(rank, signal.SIGKILL)
        with pytest.raises(SessionLost):
            await asyncio.wait_for(opening, WAIT_S)
        await back_again(solo, before.num_restarts + 1)
        assert solo.status.num_sessions == 0

    async def test_no_sessions_while_restarting(self, solo: Engine) -> None:
        before = solo.status
        session = await streaming(solo)
        kill_all(before.process_ids)
        await wait_until(lambda: not solo.status.ready, "the loss is noticed")
        with pytest.raises(OutOfCapacity, match="starting again") as refused:
            await solo.open(REQUEST)
        assert refused.value.retryable
        await session.close()
        for call in (session.pause, session.resume, lambda: session.grant(1)):
            with pytest.raises(SessionLost):
                call()
        with pytest.raises(SessionLost):
            await session.switch("too late")
        await assert_lost(session)
        await back_again(solo, before.num_restarts + 1)

    @pytest.mark.slow
    async def test_ranks_that_cannot_start_again(
        self,
        solo: Engine,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """First the weights are gone, then no process can be started at all, then all is well again."""
        monkeypatch.setattr(ranks_module, "RESTART_DELAYS_S", (0.0, 0.1))
        before = solo.status
        expected = await generate(solo, NUM_BLOCKS)
        solo._ranks._files = ModelFiles(tmp_path / "gone.safetensors")
        os.kill(before.process_ids[0], signal.SIGKILL)
        await wait_until(lambda: "attempt 1" in caplog.text, "a failed attempt")
        assert "gone" in caplog.text
        with pytest.raises(OutOfCapacity):
            await solo.open(REQUEST)

        async def no_process(*arguments: object, **settings: object) -> None:
            raise BlockingIOError("no more processes")

        with monkeypatch.context() as patch:
            patch.setattr(solo._ranks._forks, "start_rank", no_process)
            await wait_until(lambda: "no more processes" in caplog.text, "an attempt without processes")
        solo._ranks._files = None
        await back_again(solo, before.num_restarts + 1)
        assert_same(await generate(solo, NUM_BLOCKS), expected)

    @pytest.mark.slow
    async def test_engines_do_not_disturb_each_other(
        self, engine: Engine, undisturbed: Engine, expected: dict[int, torch.Tensor]
    ) -> None:
        before = engine.status
        doomed = await streaming(engine)
        session = await undisturbed.open(replace(REQUEST, credit=4, num_blocks=NUM_BLOCKS))
        latents = await read_blocks(session, 4)
        os.kill(before.process_ids[0], signal.SIGKILL)
        await assert_lost(doomed)
        session.grant(4)
        latents |= await read_blocks(session, 4)
        assert_same(latents, expected)
        await back_again(engine, before.num_restarts + 1)
        assert_same(await generate(undisturbed, NUM_BLOCKS), expected)


class Heard:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, bool]] = []
        self.num_restarts = 0

    def ticked(self, tick_s: float, has_block: bool) -> None:
        self.ticks.append((tick_s, has_block))

    def restarted(self) -> None:
        self.num_restarts += 1


@pytest.mark.slow
async def test_an_observer_hears_every_tick_and_every_restart(card: Path) -> None:
    heard = Heard()
    async with await Engine.start(engine_config(card), heard) as engine:
        idle = engine.status
        assert (idle.num_blocks, idle.last_tick_s, idle.median_tick_s, heard.ticks) == (0, 0.0, 0.0, [])
        assert not engine.has_work
        waiting = await engine.open(replace(REQUEST, credit=0))
        assert not engine.has_work, "without credit nothing is to be done"
        waiting.grant(1)
        assert engine.has_work
        await read_blocks(waiting, 1)
        await generate(engine, 2)
        assert engine.status.num_blocks == sum(has_block for _, has_block in heard.ticks) == 3
        assert engine.status.last_tick_s == heard.ticks[-1][0] > 0
        assert min(heard.ticks)[0] <= engine.status.median_tick_s <= max(heard.ticks)[0]
        assert heard.num_restarts == 0
        os.kill(engine.status.process_ids[0], signal.SIGKILL)
        await back_again(engine, 1)
        assert heard.num_restarts == 1
        assert engine.status.num_blocks == 3, "counted since the engine's start"


class TestCancelledCalls:
    """A caller that gives up leaves nothing behind on the ranks."""

    async def test_open(
        self, undisturbed: Engine, expected: dict[int, torch.Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await generate(undisturbed, 1)  # the prompt is known: only the ranks' answer is missing
        sent: list[Command] = []
        send = undisturbed._ranks.group.send

        def spy(command: Command) -> None:
            sent.append(command)
            send(command)

        monkeypatch.setattr(undisturbed._ranks.group, "send", spy)
        processes = undisturbed.status.process_ids
        for process in processes[1:]:
            await stop(process)
        try:
            opening = asyncio.create_task(undisturbed.open(REQUEST))
            await wait_until(lambda: bool(sent), "the ranks are asked")
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        finally:
            for process in processes[1:]:
                os.kill(process, signal.SIGCONT)
        assert undisturbed.status.num_sessions == 0
        assert sent[-1] == Drop(sent[0].session)  # type: ignore[union-attr]
        # The ranks' late answers are for nobody; the next session has its own.
        assert_same(await generate(undisturbed, NUM_BLOCKS), expected)

    async def test_switch(self, undisturbed: Engine) -> None:
        session = await undisturbed.open(replace(REQUEST, credit=0))
        first_rank = undisturbed.status.process_ids[0]
        await stop(first_rank)
        try:
            switches = [asyncio.create_task(session.switch(f"prompt {number}")) for number in range(3)]
            await asyncio.sleep(0.05)
            for switch in switches:
                switch.cancel()
            await asyncio.gather(*switches, return_exceptions=True)
        finally:
            os.kill(first_rank, signal.SIGCONT)
        await session.switch("another", request_id="kept")
        async with asyncio.timeout(WAIT_S):
            receipt = await anext(session)
        assert receipt.request_id == "kept"  # type: ignore[union-attr]
        await session.close()


@pytest.mark.usefixtures("nothing_left")
class TestClose:
    """Whatever the engine was doing, no process and no folder is left, and a close is silent."""

    async def test_while_a_session_runs(self, card: Path, capfd: pytest.CaptureFixture[str]) -> None:
        async with running_engine(card, num_ranks=2) as engine:
            session = await streaming(engine)
            waiting = asyncio.create_task(engine.open(SessionRequest({0: "another prompt"})))
            await asyncio.sleep(0)
        with pytest.raises(SessionClosed):
            await collect(session)
        with pytest.raises(SessionClosed, match="closed"):
            await waiting
        with pytest.raises(SessionClosed, match="closed"):
            await engine.open(REQUEST)
        assert not engine.status.ready
        await engine.close()
        assert capfd.readouterr().err == ""

    @pytest.mark.slow
    async def test_while_a_rank_is_stopped(self, card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(group_module, "CLOSE_GRACE_S", 0.2)
        async with running_engine(card, num_ranks=2) as engine:
            await streaming(engine)
            await stop(engine.status.process_ids[1])

    @pytest.mark.slow
    async def test_cancelled_while_a_rank_is_stopped(self, card: Path) -> None:
        engine = await Engine.start(engine_config(card, num_ranks=2))
        await stop(engine.status.process_ids[1])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await engine.close()
        await wait_until(lambda: not any(map(is_running, engine.status.process_ids)), "the ranks are gone")
        await engine.close()

    @pytest.mark.slow
    async def test_while_ranks_restart(self, card: Path) -> None:
        async with running_engine(card, num_ranks=2) as engine:
            processes = engine.status.process_ids
            kill_all(processes)
            await wait_until(
                lambda: len(set(engine.status.process_ids) - set(processes)) == 2, "a new attempt"
            )

    @pytest.mark.slow
    async def test_in_the_pause_between_attempts(
        self, card: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(ranks_module, "RESTART_DELAYS_S", (60.0,))
        async with running_engine(card) as engine:
            kill_all(engine.status.process_ids)
            await wait_until(lambda: "ranks lost" in caplog.text, "the loss is noticed")


@pytest.mark.usefixtures("nothing_left")
class TestStart:
    """An engine that does not come up leaves nothing behind either."""

    @pytest.mark.parametrize("num_spawned", [0, pytest.param(1, marks=pytest.mark.slow), 2])
    async def test_cancelled(self, card: Path, num_spawned: int) -> None:
        before = len(rank_processes())
        starting = asyncio.create_task(Engine.start(engine_config(card, num_ranks=NUM_RANKS)))
        await asyncio.sleep(0)
        await wait_until(lambda: len(rank_processes()) - before >= num_spawned, "the ranks are spawned")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    @pytest.mark.parametrize(
        "num_steps", [1, 3, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 4, 6, 9))]
    )
    async def test_cancelled_at_any_step(self, card: Path, num_steps: int) -> None:
        """One turn of the event loop later each time, across the spawning of the first rank."""
        starting = asyncio.create_task(Engine.start(engine_config(card)))
        for _ in range(num_steps):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    async def test_unknown_weights(self, card: Path) -> None:
        with pytest.raises(WeightsError, match="nowhere"):
            await Engine.start(engine_config(card, weights="/nowhere/at/all"))

    async def test_one_rank_fails_while_the_other_waits_for_it(
        self, card: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def load(card: Any, config: Any, files: ModelFiles | None, rank: int, *others: Any) -> Load:
            return Load(card, config, ModelFiles(Path("/nowhere")) if rank == 1 else files, rank, *others)

        monkeypatch.setattr(group_module, "Load", load)
        with pytest.raises(WeightsError, match="nowhere"):
            async with asyncio.timeout(WAIT_S):
                await Engine.start(engine_config(card, num_ranks=NUM_RANKS))

    @pytest.mark.slow
    async def test_rank_dies_while_loading(self, card: Path) -> None:
        before = rank_processes()
        starting = asyncio.create_task(Engine.start(engine_config(card, num_ranks=2)))
        await wait_until(lambda: len(rank_processes() - before) == 2, "the ranks are spawned")
        kill_all(tuple(rank_processes() - before)[:1])
        with pytest.raises(SessionLost, match=r"could not start.*exit status -9"):
            async with asyncio.timeout(WAIT_S):
                await starting

    async def test_the_fork_server_dies_while_it_starts(self, card: Path) -> None:
        before = set(psutil.Process().children())
        starting = asyncio.create_task(Engine.start(engine_config(card, num_ranks=2)))
        await wait_until(lambda: bool(set(psutil.Process().children()) - before), "it is started")
        kill_all(tuple(child.pid for child in set(psutil.Process().children()) - before))
        with pytest.raises(SessionLost, match=r"could not start: no process for rank 0"):
            async with asyncio.timeout(WAIT_S):
                await starting

    async def test_stderr_that_is_no_file(self, card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in notebooks."""
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        async with running_engine(card) as engine:
            assert engine.status.ready

    async def test_deadline(self, card: Path) -> None:
        with pytest.raises(SessionLost, match=r"loading took longer than 0\.05 s"):
            await Engine.start(engine_config(card, start_deadline_s=0.05))


PARENT = """
import asyncio, sys
from pathlib import Path
from cascade_core.engine.engine import Engine
from cascade_core.request import SessionRequest
from tests.engine_support import engine_config

async def main():
    config = engine_config(Path(sys.argv[1]), num_ranks=2)
    print("starting", flush=True)
    async with await Engine.start(config) as engine:
        session = await engine.open(SessionRequest({0: "a red circle"}))
        async for event in session:
            if event.index == 2:
                print("running", flush=True)

asyncio.run(main())
"""


@pytest.mark.usefixtures("nothing_left")
class TestParent:
    @pytest.fixture
    def parent(self, card: Path, tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
        process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(card)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(tmp_path)},  # kill -9 leaves the folder of the rendezvous
            start_new_session=True,
        )
        with process:
            yield process
            process.kill()

    @pytest.mark.parametrize("state", [pytest.param("starting", marks=pytest.mark.slow), "running"])
    async def test_dies(self, parent: "subprocess.Popen[str]", state: str) -> None:
        assert parent.stdout is not None
        while (await asyncio.to_thread(parent.stdout.readline)).strip() != state:
            pass
        await wait_until(lambda: len(rank_processes(parent.pid)) == 2, "both ranks")
        ranks = rank_processes(parent.pid)
        parent.kill()
        parent.wait()
        await wait_until(lambda: not any(map(is_running, ranks)), "no orphans")

    async def test_control_c(self, parent: "subprocess.Popen[str]") -> None:
        """The terminal interrupts the whole process group; only the parent has something to say."""
        await wait_until(lambda: len(rank_processes(parent.pid)) == 2, "both ranks")
        ranks = rank_processes(parent.pid)
        await asyncio.sleep(0.3)  # into the ranks' imports
        os.killpg(parent.pid, signal.SIGINT)
        _, errors = await asyncio.to_thread(parent.communicate, timeout=WAIT_S)
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert "cascade_core/ranks/worker.py" not in errors
        assert not any(map(is_running, ranks))
