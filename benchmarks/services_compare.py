"""The gateway against an earlier one: the same load on both in turn, so that both have the same machine."""

import statistics
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.services_load import Load, Outcome, measure

Row = dict[str, Any]
NUM_SESSIONS = 75
NUM_TURNS = 5
SECONDS = 8.0


async def compare(before: Path) -> AsyncIterator[Row]:
    """A row per journal; `before`: a checkout of the earlier code. The packages are those installed here."""
    for uses_redis in (False, True):
        earlier = Load(NUM_SESSIONS, SECONDS, uses_redis, checkout=before)
        now = Load(NUM_SESSIONS, SECONDS, uses_redis)
        turns = [(await measure(earlier), await measure(now)) for _ in range(NUM_TURNS)]
        yield row([pair[0] for pair in turns], [pair[1] for pair in turns])


def row(before: list[Outcome], after: list[Outcome]) -> Row:
    """Medians over the turns; the ratio is that of the gateways' CPU per block."""
    spent = [(a.row()["ms_per_block"], b.row()["ms_per_block"]) for b, a in zip(before, after, strict=True)]
    ratios = sorted(now / earlier for now, earlier in spent)
    return {
        "journal": before[0].row()["journal"],
        "sessions": NUM_SESSIONS,
        "turns": len(spent),
        "faults": sum(len(outcome.faults) for outcome in before + after),
        "ms_per_block_before": statistics.median(earlier for _, earlier in spent),
        "ms_per_block": statistics.median(now for now, _ in spent),
        "ratio": statistics.median(ratios),
        "least_ratio": ratios[0],
        "most_ratio": ratios[-1],
        "added_p99_ms_before": statistics.median(outcome.added(0.99) for outcome in before),
        "added_p99_ms": statistics.median(outcome.added(0.99) for outcome in after),
        "redis_ms_per_block_before": statistics.median(map(redis_ms, before)),
        "redis_ms_per_block": statistics.median(map(redis_ms, after)),
    }


def redis_ms(outcome: Outcome) -> float:
    """What Redis itself needs for a block; 0 without it."""
    return 1e3 * outcome.cores.get("redis", 0.0) * outcome.seconds / max(1, outcome.num_segments)
