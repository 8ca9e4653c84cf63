"""Twenty sessions at real message size on one gateway process: nothing is lost, nothing piles up."""

import pytest

from benchmarks.services_load import Load, measure
from tests.services.support.redis_support import needs_redis

MIB = 2**20
NUM_SESSIONS, SECONDS, INTERVAL_S = 20, 5.0, 0.25
KEPT = {"CASCADE_GATEWAY_MAX_UNACKED_LIMIT": "4", "CASCADE_GATEWAY_KEPT_SEGMENTS": "4"}
FULL_BYTES = NUM_SESSIONS * (8 * 600_000 + 4 * 150_000)
"""What the journal may hold: sink, context and blocks on their way, and four segments of each session."""


@pytest.mark.slow
@pytest.mark.parametrize("uses_redis", [False, pytest.param(True, marks=needs_redis)])
async def test_nothing_is_lost_and_memory_is_bounded(uses_redis: bool) -> None:
    load = Load(NUM_SESSIONS, SECONDS, uses_redis, interval_s=INTERVAL_S, settings=KEPT)
    outcome = await measure(load)
    assert outcome.faults == []  # gaps, repeats, wrong sizes, recoveries, ends that nobody asked for
    assert outcome.num_segments > 4 * NUM_SESSIONS
    made_bytes = outcome.num_segments * (load.latent_bytes + load.segment_bytes)
    assert made_bytes > FULL_BYTES, "too little came to tell whether it piles up"
    assert outcome.grown_bytes < FULL_BYTES
