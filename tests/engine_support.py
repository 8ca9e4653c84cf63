"""A tiny model card, and what tests do with real engines and real rank processes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from cascade_core.config import MAX_SIDE, EngineConfig, make
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import Event, LatentBlock, Session
from cascade_core.request import SessionRequest

WAIT_S = 60.0
"""Deadline of every wait: far above what an idle machine needs, so that only a hang reaches it."""
NUM_PASSES = 5
PROMPT = "a red circle moves left"

_CARD = """
name = "tiny"
title = "Small enough to start in a second"
licence = "Apache-2.0"
commercial_use = true
source = "this repository"

[transformer]
dim = 32
ffn_dim = 64
num_heads = 2
num_layers = 2
text_dim = 16
text_len = 8

[sampling]
steps = [1000, 750, 500, 250]

[window]
block_frames = 1
window_frames = 4
rope = "{rope}"
max_positions = {max_positions}

[video]
width = 32
height = 32
"""


def write_card(folder: Path, rope: str = "window", max_positions: int = 1024) -> Path:
    """A model card of blocks of one frame, four tokens each, and a window of four blocks."""
    path = folder / f"tiny-{rope}-{max_positions}.toml"
    path.write_text(_CARD.format(rope=rope, max_positions=max_positions))
    return path


def engine_config(card: Path, **settings: Any) -> EngineConfig:
    values = {
        "model": str(card),
        "weights": "random",
        "device": "cpu",
        "threads_per_rank": 1,
        "max_pixels": MAX_SIDE**2,
    }
    return make(EngineConfig, values | settings)


@asynccontextmanager
async def running_engine(card: Path, **settings: Any) -> AsyncIterator[Engine]:
    async with await Engine.start(engine_config(card, **settings)) as engine:
        yield engine


async def collect(session: Session) -> list[Event]:
    """Every event up to the end of the session."""
    async with asyncio.timeout(WAIT_S):
        return [event async for event in session]


async def read_blocks(session: Session, count: int) -> dict[int, torch.Tensor]:
    """The latents of the next `count` blocks by index; other events are dropped."""
    latents: dict[int, torch.Tensor] = {}
    async with asyncio.timeout(WAIT_S):
        while len(latents) < count:
            event = await anext(session)
            if isinstance(event, LatentBlock):
                latents[event.index] = event.latents
    return latents


def latents_of(events: Iterable[Event]) -> dict[int, torch.Tensor]:
    return {event.index: event.latents for event in events if isinstance(event, LatentBlock)}


async def generate(engine: Engine, num_blocks: int, seed: int = 7, **request: Any) -> dict[int, torch.Tensor]:
    """The latents of a whole session by block."""
    prompts = request.pop("prompts", {0: PROMPT})
    async with asyncio.timeout(WAIT_S):
        session = await engine.open(SessionRequest(prompts, seed=seed, num_blocks=num_blocks, **request))
    return latents_of(await collect(session))


def assert_same(actual: dict[int, torch.Tensor], expected: dict[int, torch.Tensor]) -> None:
    """The same blocks, bit for bit."""
    assert list(actual) == list(expected)
    for block, latents in expected.items():
        assert torch.equal(actual[block], latents), f"block {block} differs"


async def wait_until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 (processes set no asyncio.Event)
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT_S:g} s: {what}") from None


async def back_again(engine: Engine, num_restarts: int) -> None:
    await wait_until(
        lambda: engine.status.ready and engine.status.num_restarts == num_restarts, "the ranks are back"
    )


def is_running(process_id: int) -> bool:
    """False for a zombie: it has ended, whoever has to reap it."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def stop(process_id: int) -> None:
    """Freeze a process, and wait until it is frozen."""
    os.kill(process_id, signal.SIGSTOP)
    await wait_until(lambda: psutil.Process(process_id).status() == psutil.STATUS_STOPPED, "it stops")


def rank_processes(parent: int | None = None) -> set[int]:
    """Rank processes below `parent`; None: below this one."""
    children = psutil.Process(parent or os.getpid()).children(recursive=True)
    return {child.pid for child in children if is_running(child.pid) and _is_rank(child)}


def _is_rank(process: psutil.Process) -> bool:
    """A fork of the fork server, whose command line it has."""
    try:
        parent = process.parent()
        return parent is not None and all(
            "cascade_core.ranks.fork_server" in each.cmdline() for each in (process, parent)
        )
    except psutil.NoSuchProcess:
        return False
