"""Ticks of a session, from the schedule that the engine itself follows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import inf

from cascade_core.planning.counts import gathered_bytes, views
from cascade_core.planning.timing import Parts, Roofline
from cascade_core.schedule import Shape, TickPlan, Timeline, plan_tick


@dataclass(frozen=True)
class Speed:
    """Of one session that has the ranks for itself, its window full."""

    pass_ms: Parts
    """Of the slowest rank in the slowest tick."""
    tick_ms: float
    """On average."""
    block_ms: float
    """From one block to the next."""
    first_block_ms: float
    """From a session's first tick to its first clean block."""
    hiding_gb_s: float
    """What the links must carry for the gather to hide behind attention to clean blocks; inf: in some tick a
    rank has none to attend to."""


def measure(roofline: Roofline, shape: Shape, num_passes: int | None = None) -> Speed:
    """`num_passes`: of a block's passes only the first so many count, as some benchmarks do (sequential)."""
    plans = steady_plans(shape)
    ticks = [tick_parts(roofline, shape, plan) for plan in plans]
    counted = ticks[: num_passes or None]
    tick_ms = sum(slowest.total for slowest in counted) / len(counted)
    return Speed(
        pass_ms=max(ticks, key=lambda parts: parts.total),
        tick_ms=tick_ms,
        block_ms=tick_ms * (num_passes or shape.stagger),
        first_block_ms=sum(tick_parts(roofline, shape, plan).total for plan in first_plans(shape)),
        hiding_gb_s=max(hiding_gb_s(roofline, shape, plan) for plan in plans),
    )


def tick_parts(roofline: Roofline, shape: Shape, plan: TickPlan) -> Parts:
    """Of the rank that takes longest; the others wait for it in the gathers."""
    received = gathered_bytes(roofline.card, roofline.tokens, plan, shape)
    is_joint = len(plan.works) > 1
    ranks = [roofline.rank_parts(seen, is_joint, received) for seen in views(plan, shape)]
    return max(ranks, key=lambda parts: parts.total)


def hiding_gb_s(roofline: Roofline, shape: Shape, plan: TickPlan) -> float:
    """Of the busy rank that has least to hide the gather behind."""
    received = gathered_bytes(roofline.card, roofline.tokens, plan, shape)
    if not received:
        return 0.0
    least = min(roofline.clean_ms(seen) for seen in views(plan, shape) if seen)
    return received / (1e6 * least) if least else inf


def steady_plans(shape: Shape) -> list[TickPlan]:
    """A whole round: after it every rank has the same work again. Begins with the first pass of a block."""
    window = shape.window
    full = window.sink_blocks + window.window_blocks
    plans = _plans(Timeline(0, next_block=full), shape)
    filling = shape.stagger * shape.max_in_flight
    return list(islice(plans, filling, filling + shape.stagger * shape.num_ranks))


def first_plans(shape: Shape) -> list[TickPlan]:
    """Up to the one that emits block 0."""
    plans: list[TickPlan] = []
    for plan in _plans(Timeline(0), shape):
        plans.append(plan)
        if plan.emits == 0:
            break
    return plans


def _plans(timeline: Timeline, shape: Shape) -> Iterator[TickPlan]:
    while True:
        plan, timeline = plan_tick(timeline, shape)
        assert plan, "an endless session has a next tick"
        yield plan
