"""`cascade-engine bench`: measures the engine on this machine's CPU and writes the tables.

Every figure comes from random weights: speed does not depend on them. Speeds are compared as ratios within
one run.
"""

import argparse
import asyncio
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from cascade_core.attention.exchange import SoloExchange
from cascade_core.commands.arguments import TITLES
from cascade_core.config import (
    EngineConfig,
    InflightAttention,
    ModelCard,
    Quantize,
    SwitchMode,
    check_engine,
    find_card,
    make,
)
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import LatentBlock
from cascade_core.errors import InvalidConfig
from cascade_core.machine import machine
from cascade_core.ranks.loading import build_model
from cascade_core.ranks.runner import Runner
from cascade_core.request import SessionRequest
from cascade_core.schedule import Shape, Timeline, plan_tick, switch_prompt

Row = dict[str, Any]
PROMPT = {0: "a red circle moves left"}
MIB = 2**20

MODES: tuple[SwitchMode, ...] = ("immediate", "boundary", "recache")


def check_folder(folder: Path, option: str = "--out") -> None:
    """Make the folder; InvalidConfig where it cannot be written, before minutes of measuring."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidConfig(f"{option} {folder}: cannot be written: {error.strerror}") from None


def run_bench(arguments: argparse.Namespace) -> None:
    """Measure everything, then write cpu.json and cpu.md."""
    check_folder(arguments.out)
    quantize: Quantize = arguments.quantize
    check_engine(
        make(EngineConfig, {"model": arguments.model, "quantize": quantize}), find_card(arguments.model)
    )
    torch.set_num_threads(1)  # threads that wait for each other measure what else the machine does
    demo = find_card("demo")
    stages: dict[str, Callable[[], list[Row]]] = {
        "speedup": lambda: asyncio.run(measure_speedup(arguments.model, arguments.blocks, quantize)),
        "first_block": lambda: asyncio.run(measure_first_block(arguments.model, quantize)),
        "switch": lambda: [measure_switch(demo, mode, quantize=quantize) for mode in MODES],
        "window": lambda: [measure_window(demo, frames, quantize=quantize) for frames in (6, 12, 21, 42, 84)],
        "length": lambda: measure_length(demo, arguments.frames, quantize=quantize),
    }
    results: dict[str, Any] = {"command": shlex.join(sys.argv), "machine": machine()}
    with tqdm(arguments.only, file=sys.stderr, unit="table") as bar:
        for name in bar:
            bar.set_description(name)
            results[name] = stages[name]()
    (arguments.out / "cpu.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.out / "cpu.md").write_text(render(results))
    print((arguments.out / "cpu.md").read_text())


# Speed-up over ranks, through the real engine.


@dataclass(frozen=True)
class Setup:
    """One line of the speed-up table."""

    num_ranks: int
    stagger: int
    attention: InflightAttention


def speedup_setups(num_passes: int) -> list[Setup]:
    """The sequential pipeline first: the others are ratios to it."""
    return [
        Setup(1, num_passes, "bidirectional"),
        Setup(1, 1, "bidirectional"),
        Setup(2, num_passes, "bidirectional"),
        Setup(2, 1, "bidirectional"),
        Setup(2, 1, "causal"),
    ]


async def measure_speedup(model: str, num_blocks: int, quantize: Quantize) -> list[Row]:
    """Seconds per block in the steady state: window full, pipeline full; one thread per rank."""
    card = find_card(model)
    num_passes = card.sampling.num_passes
    rows: list[Row] = []
    for setup in speedup_setups(num_passes):
        seconds = await seconds_per_block(card, model, setup, num_blocks, quantize)
        first = rows[0]["block_s"] if rows else seconds
        ceiling = num_passes / -(-num_passes // setup.num_ranks) if setup.stagger == 1 else 1.0
        rows.append(
            {
                "ranks": setup.num_ranks,
                "stagger": setup.stagger,
                "attention": setup.attention if setup.stagger == 1 else "sequential",
                "block_s": seconds,
                "fps": card.num_frames(1) / seconds,
                "speedup": first / seconds,
                "ceiling": ceiling,
                "of_ceiling": first / seconds / ceiling,
            }
        )
    return rows


async def seconds_per_block(
    card: ModelCard, model: str, setup: Setup, num_blocks: int, quantize: Quantize
) -> float:
    warm_up = card.window.window_blocks + card.sampling.num_passes
    config = make(
        EngineConfig,
        {
            "model": model,
            "weights": "random",
            "num_ranks": setup.num_ranks,
            "stagger": setup.stagger,
            "inflight_attention": setup.attention,
            "quantize": quantize,
            "threads_per_rank": 1,
        },
    )
    async with await Engine.start(config) as engine:
        session = await engine.open(SessionRequest(PROMPT))
        finished: list[float] = []
        async for event in session:
            assert isinstance(event, LatentBlock)
            finished.append(event.timing.finished_s)
            if len(finished) == warm_up + num_blocks + 1:
                break
    return (finished[-1] - finished[warm_up]) / num_blocks


async def measure_first_block(model: str, quantize: Quantize) -> list[Row]:
    """From opening a session to its first clean block, alone on the engine."""
    rows: list[Row] = []
    num_passes = find_card(model).sampling.num_passes
    for num_ranks, stagger in ((1, num_passes), (1, 1), (2, 1)):
        config = make(
            EngineConfig,
            {
                "model": model,
                "weights": "random",
                "num_ranks": num_ranks,
                "stagger": stagger,
                "quantize": quantize,
                "threads_per_rank": 1,
            },
        )
        async with await Engine.start(config) as engine:
            times = [await first_block_s(engine) for _ in range(4)][1:]
        rows.append({"ranks": num_ranks, "stagger": stagger, "first_block_s": statistics.median(times)})
    return rows


async def first_block_s(engine: Engine) -> float:
    started = time.monotonic()
    session = await engine.open(SessionRequest(PROMPT))
    async for event in session:
        assert isinstance(event, LatentBlock)
        await session.close()
        return event.timing.finished_s - started
    raise AssertionError("an endless session ended")


# What follows runs a Runner in this process: one rank, no engine around it.


class Bench:
    """A session on a Runner in this process."""

    def __init__(self, card: ModelCard, quantize: Quantize = "none", stagger: int = 1) -> None:
        self.card = card
        sampling = card.sampling
        self.shape = Shape(
            sampling.num_passes, stagger, 1, card.window, num_extra_passes=sampling.num_extra_passes
        )
        model = build_model(card, None, 0, torch.device("cpu"), torch.float32, quantize)
        self.runner = Runner(model, card, self.shape, 0, SoloExchange())
        self.runner.open(0, 0, card.video.height, card.video.width, {})
        self.embedding = torch.ones(4, card.transformer.text_dim)
        self.runner.add_prompt(0, 0, self.embedding)
        self.timeline = Timeline(0)

    def ticks(self) -> Iterator[tuple[float, int | None]]:
        """Endless ticks: seconds, and the block that became clean."""
        while True:
            started = time.perf_counter()
            plan, self.timeline = plan_tick(self.timeline, self.shape)
            assert plan is not None
            self.runner.tick(plan)
            yield time.perf_counter() - started, plan.emits

    def switch(self, mode: SwitchMode) -> tuple[int, int]:
        """Switch the prompt now; the first block touched, and the first made under it alone."""
        prompt = self.timeline.prompt + 1
        self.runner.add_prompt(0, prompt, self.embedding)
        self.timeline, receipt = switch_prompt(self.timeline, self.shape, prompt, mode)
        return receipt.first_block_touched, receipt.first_block_full

    @property
    def cache_bytes(self) -> int:
        return self.runner.sessions[0].cache.num_bytes


def measure_switch(
    card: ModelCard,
    mode: SwitchMode,
    blocks_after: int = 10,
    repeats: int = 5,
    quantize: Quantize = "none",
) -> Row:
    """What a switch costs: time to emit the blocks after it beyond what they take in the steady state."""
    bench = Bench(card, quantize)
    ticks = bench.ticks()
    run_blocks(ticks, card.window.window_blocks + card.sampling.num_passes)
    extra, touched, full = [], 0, 0
    for _ in range(repeats):
        steady = run_blocks(ticks, blocks_after)
        shown = bench.timeline.next_block - len(bench.timeline.in_flight)
        started = time.perf_counter()
        first_touched, first_full = bench.switch(mode)
        cache_s = time.perf_counter() - started
        touched, full = first_touched - shown, first_full - shown
        extra.append(cache_s + run_blocks(ticks, blocks_after) - steady)
    return {
        "mode": mode,
        "extra_ms": 1e3 * statistics.median(extra),
        "blocks_until_touched": touched,
        "blocks_until_full": full,
    }


def run_blocks(ticks: Iterator[tuple[float, int | None]], num_blocks: int) -> float:
    """Seconds until that many more blocks are clean."""
    seconds, left = 0.0, num_blocks
    while left:
        tick_s, emitted = next(ticks)
        seconds += tick_s
        left -= emitted is not None
    return seconds


def measure_window(
    card: ModelCard, window_frames: int, num_ticks: int = 30, quantize: Quantize = "none"
) -> Row:
    """Tick time and cache memory in the steady state, by window length."""
    bench = Bench(replace(card, window=replace(card.window, window_frames=window_frames)), quantize)
    ticks = bench.ticks()
    run_blocks(ticks, window_frames // card.window.block_frames + card.sampling.num_passes)
    times = [next(ticks)[0] for _ in range(num_ticks)]
    return {
        "window_frames": window_frames,
        "tick_ms": 1e3 * statistics.median(times),
        "cache_mib": bench.cache_bytes / MIB,
    }


def measure_length(
    card: ModelCard, num_frames: int, sample: int = 100, quantize: Quantize = "none"
) -> list[Row]:
    """Tick time and process memory along one session with `rope = window`."""
    bench = Bench(replace(card, window=replace(card.window, rope="window")), quantize)
    ticks = bench.ticks()
    num_blocks = num_frames // card.window.block_frames
    marks = [mark for mark in (50, 200, 500, 1000, 2000, 5000, 10_000) if mark < num_blocks] + [num_blocks]
    rows: list[Row] = []
    done = 0
    for mark in marks:
        run_blocks(ticks, max(1, mark - done - sample))
        times = [next(ticks)[0] for _ in range(min(sample, mark - done))]
        done = mark
        rows.append(
            {
                "latent_frames": mark * card.window.block_frames,
                "tick_ms": 1e3 * statistics.median(times),
                "rss_mib": psutil.Process().memory_info().rss / MIB,
                "cache_mib": bench.cache_bytes / MIB,
            }
        )
    return rows


# Tables.


def render(results: dict[str, Any]) -> str:
    """Markdown of all tables."""
    info = results["machine"]
    head = [
        "# Engine on the CPU",
        f"`{results['command']}` · {info['processor']}, {info['cores']} cores · torch {info['torch']} · "
        f"{info['date']} · random weights",
    ]
    body = [f"## {title}\n\n{table(results[name])}" for name, title in TITLES.items() if name in results]
    return "\n\n".join(head + body) + "\n"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of rows with the same keys."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([cell(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: Any) -> str:
    """Three significant digits, whole numbers from 100 on."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
