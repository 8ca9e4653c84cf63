"""Ticks of one rank, timed, and what they come to per pass."""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks.clock import Clock, stopwatch
from benchmarks.gpu.steady_session import SteadySession
from cascade_core.attention.joint_attention import JointAttention, Reader
from cascade_core.config import ModelCard
from cascade_core.planning.counts import attention_flop, product_flop

Row = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One tick of rank 0."""

    pass_index: int
    clean_blocks: int
    in_flight_blocks: int
    tick_ms: float
    attention_ms: float
    """Self-attention with its merges, and waiting for the gather, within the tick."""
    clean_ms: float
    """The part of it on the clean cache, which a gather can hide behind."""


def sample_ticks(session: SteadySession, repeats: int, name: str) -> list[Sample]:
    """`repeats` ticks of every pass, after one round to warm up."""
    num_passes = session.runner.shape.num_passes
    clock = Clock(session.runner.model.device)
    ticks = tqdm(range((1 + repeats) * num_passes), desc=name, unit="tick", file=sys.stderr)
    queued = [queue_tick(session, clock) for _ in ticks]
    clock.finish()
    return [sample() for sample in queued[num_passes:]]


def queue_tick(session: SteadySession, clock: Clock) -> Callable[[], Sample]:
    """Gives its sample once the device is done."""
    plan = session.plan()
    work, clean_blocks, in_flight_blocks = session.seen(plan)
    with (
        stopwatch(clock, JointAttention, "__call__") as attention,
        stopwatch(clock, Reader, "attend_clean") as clean,
    ):
        start = clock.mark()
        session.tick(plan)
        end = clock.mark()

    def sample() -> Sample:
        return Sample(
            work.pass_index,
            clean_blocks,
            in_flight_blocks,
            clock.ms(start, end),
            sum(clock.ms(*marks) for marks in attention),
            sum(clock.ms(*marks) for marks in clean),
        )

    return sample


def pass_flops(card: ModelCard, num_blocks_seen: int) -> float:
    """Floating-point operations of one pass of one block: matrix products and attention."""
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    return product_flop(card, tokens) + attention_flop(card, tokens, num_blocks_seen)


def summarize(card: ModelCard, samples: Sequence[Sample]) -> list[Row]:
    """Per pass: medians in ms, the 95th percentile, and the rate."""
    rows: list[Row] = []
    for index in sorted({sample.pass_index for sample in samples}):
        mine = [sample for sample in samples if sample.pass_index == index]
        first = mine[0]
        tick_ms = statistics.median(sample.tick_ms for sample in mine)
        attention_ms = statistics.median(sample.attention_ms for sample in mine)
        flops = pass_flops(card, first.clean_blocks + first.in_flight_blocks)
        rows.append(
            {
                "pass": "context" if index == card.sampling.num_passes - 1 else f"denoise {index + 1}",
                "clean_blocks": first.clean_blocks,
                "in_flight_blocks": first.in_flight_blocks,
                "tick_ms": tick_ms,
                "p95_ms": percentile([sample.tick_ms for sample in mine], 95),
                "attention_ms": attention_ms,
                "rest_ms": tick_ms - attention_ms,
                "clean_ms": statistics.median(sample.clean_ms for sample in mine),
                "tflop": flops / 1e12,
                "tflop_s": flops / 1e9 / tick_ms,
            }
        )
    return rows


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` % of the values do not exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]
