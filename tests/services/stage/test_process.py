"""`python -m services.stage`: its settings, its start, its end, and the demo model."""

import asyncio
import json
import os
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from cascade.v1 import common_pb2
from cascade_core.config import EngineConfig, make
from cascade_core.errors import InvalidConfig
from services.common.channel import open_channel
from services.common.environment import load_settings
from services.common.settings import GrpcSettings
from services.stage.settings import Settings
from tests.engine_support import is_running, rank_processes, wait_until, write_card
from tests.paths import ROOT
from tests.services.support.stage_support import MANY, WAIT_S, Running


class Process:
    """A stage process and its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def logged(self, event: str) -> dict[str, Any]:
        """The next line of that event."""
        assert self.process.stderr
        async with asyncio.timeout(2 * WAIT_S):
            async for line in self.process.stderr:
                self.lines.append(line.decode().strip())
                if f'"event": "{event}"' in self.lines[-1]:
                    found: dict[str, Any] = json.loads(self.lines[-1])
                    return found
        raise AssertionError(f"ended without {event!r}: {self.lines}")

    async def end(self) -> int:
        """The exit status; keeps what it said."""
        _, said = await asyncio.wait_for(self.process.communicate(), WAIT_S)
        self.lines += said.decode().splitlines()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def stage_process(**environment: str) -> AsyncIterator[Process]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CASCADE_")}
    ours = {"CASCADE_GRPC_PORT": "0", "CASCADE_STAGE_DEVICE": "cpu", "CASCADE_STAGE_THREADS_PER_RANK": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.stage"),
        env=clean | ours | environment | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Running]:
    async with open_channel(f"127.0.0.1:{port}", GrpcSettings(), None) as channel:
        yield Running(None, None, channel)  # type: ignore[arg-type]


def load(**environment: str) -> Settings:
    return load_settings(Settings, {f"CASCADE_{key}": value for key, value in environment.items()})


class TestSettings:
    def test_defaults(self) -> None:
        settings = load()
        assert (settings.stage.model, settings.stage.weights, settings.stage.stagger) == ("demo", None, 2)
        assert (settings.grpc.port, settings.grpc.max_receive_bytes) == (50061, 17 * 2**20)
        assert settings.grpc.max_send_bytes == 17 * 2**20
        assert settings.stage.engine() == make(EngineConfig, {"model": "demo", "stagger": 2})
        assert type(settings.stage.engine()) is EngineConfig

    def test_every_field_of_the_engine_is_a_variable(self) -> None:
        settings = load(
            STAGE_NUM_RANKS="3", STAGE_TICK_DEADLINE_S="5", STAGE_ROPE="absolute", STAGE_COMPILE="true"
        )
        engine = settings.stage.engine()
        assert (engine.num_ranks, engine.tick_deadline_s, engine.rope, engine.compile) == (
            3,
            5,
            "absolute",
            True,
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("STAGE_MODEL", "no-such-model"),
            ("STAGE_MODEL", "/no/such/card.toml"),
            ("STAGE_STAGGER", "9"),
            ("STAGE_ALLOWED_STAGGERS", "2,9"),
            ("STAGE_ALLOWED_INFLIGHT_ATTENTIONS", "none"),
            ("STAGE_NUM_RANKS", "9"),
            ("STAGE_NUM_RANKS", "0"),
            ("STAGE_DEVICE", "tpu"),
            ("STAGE_MAX_SESSIONS", "none"),
            ("STAGE_MAX_PIXELS", "1"),
            ("STAGE_TICK_DEADLINE_S", "inf"),
            ("STAGE_STATUS_INTERVAL_S", "0"),
            ("STAGE_NO_SUCH", "1"),
        ],
    )
    def test_a_bad_one_is_fatal_with_its_name(self, name: str, value: str) -> None:
        with pytest.raises(InvalidConfig, match=rf"^CASCADE_{name}: "):
            load(**{"STAGE_THREADS_PER_RANK": "1", "STAGE_SEED": "1", name: value})


async def test_a_bad_variable_ends_the_process() -> None:
    async with stage_process(CASCADE_STAGE_STAGGER="9") as process:
        assert await process.end() == 1
        assert process.lines[-1].startswith("stage: CASCADE_STAGE_STAGGER: ")


async def test_weights_that_are_not_there_end_the_process(tmp_path: Path) -> None:
    async with stage_process(CASCADE_STAGE_WEIGHTS=str(tmp_path)) as process:
        await process.logged("listening")
        assert await process.end() == 1
        assert process.lines[-1].startswith("stage: CASCADE_STAGE_MODEL, CASCADE_STAGE_WEIGHTS: model demo:")
        assert "Traceback" not in "\n".join(process.lines)


async def test_a_setting_that_this_machine_cannot_serve_ends_the_process() -> None:
    async with stage_process(CASCADE_STAGE_QUANTIZE_ATTENTION="true") as process:
        assert await process.end() == 1
        assert process.lines[-1].startswith(
            "stage: CASCADE_STAGE_QUANTIZE_ATTENTION: needs FlashAttention 3 "
        )


def loads_torch(process_id: int) -> bool:
    return "libtorch" in Path(f"/proc/{process_id}/maps").read_text()


async def test_the_demo_model_from_start_to_drained() -> None:
    async with stage_process(CASCADE_TELEMETRY_METRICS_PORT="0", CASCADE_STAGE_NUM_RANKS="2") as process:
        metrics = await process.logged("metrics")
        async with client((await process.logged("listening"))["port"]) as stage:
            model = (await stage.until(common_pb2.SERVING_STATE_READY)).model
            assert (model.model, model.licence, model.width, model.fps) == ("demo", "Apache-2.0", 96, 16)
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", model.revision)
            ranks = rank_processes(process.process.pid)
            assert len(ranks) == 2
            assert not loads_torch(process.process.pid)
            assert all(map(loads_torch, ranks))
            stream = stage.generate()
            stream.shape = (3, 16, 12, 12)
            await stream.open(model="demo", prompts={0: "a red dragon moves left"}, credit_end_block=2)
            opened = await stream.expect("opened")
            assert opened.revision == model.revision
            assert [(entry.block, list(entry.words)) for entry in opened.unknown_words] == [(0, ["dragon"])]
            await stream.blocks(2)
            await stream.switch("a", "a blue dragon moves left")
            await stream.expect("switch_accepted")
            assert list((await stream.expect("prompt_applied")).unknown_words) == ["dragon"]
            page = await asyncio.to_thread(scrape, metrics["port"])
            for line in (
                "cascade_stage_blocks_total 2.0",
                "cascade_stage_sessions 1.0",
                'cascade_stage_prompt_switches_total{outcome="accepted"} 1.0',
                "cascade_stage_switch_apply_seconds_count 1.0",
                "cascade_stage_rank_restarts_total 0.0",
            ):
                assert line in page
            process.process.send_signal(signal.SIGTERM)
            await stream.expect("draining")
            await stream.close()
        assert await process.end() == 0
        await wait_until(lambda: not any(map(is_running, ranks)), "the ranks are gone")
        assert any('"event": "stopped"' in line for line in process.lines)


@pytest.mark.slow
async def test_a_session_that_stays_is_ended_with_draining(tmp_path: Path) -> None:
    tiny = {"CASCADE_STAGE_MODEL": str(write_card(tmp_path)), "CASCADE_STAGE_WEIGHTS": "random"}
    async with stage_process(CASCADE_DRAIN_DEADLINE_S="1", **tiny) as process:
        async with client((await process.logged("listening"))["port"]) as stage:
            await stage.until(common_pb2.SERVING_STATE_READY)
            stream = await stage.opened(credit_end_block=MANY)
            process.process.send_signal(signal.SIGTERM)
            assert await stream.reason() == "DRAINING"
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert await process.end() == 0


@pytest.mark.slow
async def test_a_second_sigterm_hurries(tmp_path: Path) -> None:
    tiny = {"CASCADE_STAGE_MODEL": str(write_card(tmp_path)), "CASCADE_STAGE_WEIGHTS": "random"}
    slow = {"CASCADE_DRAIN_DEADLINE_S": "3600", "CASCADE_DRAIN_GRACE_S": "3600"}
    async with stage_process(**slow, **tiny) as process:
        async with client((await process.logged("listening"))["port"]) as stage:
            await stage.until(common_pb2.SERVING_STATE_READY)
            stream = await stage.opened(credit_end_block=1)
            await stream.blocks(1)
            process.process.send_signal(signal.SIGTERM)
            await stream.expect("draining")
            await stream.credit(2)
            await stream.blocks(1)
            process.process.send_signal(signal.SIGTERM)
            await stream.rest()
            assert await stream.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert await process.end() == 0


async def test_ranks_die_with_the_stage(tmp_path: Path) -> None:
    tiny = {"CASCADE_STAGE_MODEL": str(write_card(tmp_path)), "CASCADE_STAGE_WEIGHTS": "random"}
    async with stage_process(CASCADE_STAGE_NUM_RANKS="2", **tiny) as process:
        async with client((await process.logged("listening"))["port"]) as stage:
            await stage.until(common_pb2.SERVING_STATE_READY)
            ranks = rank_processes(process.process.pid)
            stream = await stage.opened(credit_end_block=MANY)
            process.process.kill()
            await stream.rest()
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert await process.end() == -signal.SIGKILL
        assert len(ranks) == 2
        await wait_until(lambda: not any(map(is_running, ranks)), "the ranks are gone")


async def test_it_can_be_stopped_while_it_loads() -> None:
    async with stage_process() as process:
        await process.logged("listening")
        await wait_until(lambda: bool(rank_processes(process.process.pid)), "a rank is being started")
        ranks = rank_processes(process.process.pid)
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0
        assert not any('"event": "ready"' in line for line in process.lines)
        await wait_until(lambda: not any(map(is_running, ranks)), "the ranks are gone")


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as page:
        return str(page.read().decode())
