"""A gateway's metrics: a session's life leaves its mark, and the production page names what is there."""

import re
import time

from prometheus_client import generate_latest

from cascade.v1 import session_pb2 as pb
from cascade_core.errors import SessionLost
from tests.paths import ROOT
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import town

PAGE = ROOT / "docs/services.md"
NUM_BLOCKS = 8


async def test_a_session_leaves_its_mark() -> None:
    stages = [FakeStage(), FakeStage()]
    for stage in stages:
        stage.fail(4, SessionLost("lost"))
    stages[1].faults = stages[0].faults
    before_s = time.time()
    async with town(stages=stages) as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS)
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_sequence(2)
            assert sample(place, 'cascade_sessions{state="active"}') == 1
            assert sample(place, "cascade_controllers") == 1
            await place.anybody.switch(name, "a blue square", "s1")
            stream.acks = True
            await stream.ack(stream.sequences[-1])
            await stream.until_over()
        took_s = time.time() - before_s
        assert sample(place, "cascade_segments_total") == NUM_BLOCKS
        assert sample(place, "cascade_first_segment_seconds_count") == 1
        assert 0 < sample(place, "cascade_first_segment_seconds_sum") <= took_s
        assert sample(place, "cascade_prompt_applied_seconds_count") == 1
        assert sample(place, "cascade_prompt_picture_seconds_count") == 1
        done = stream.all("recovery_done")
        assert [item.cause for item in done] == [pb.RECOVERY_CAUSE_STAGE_LOST]
        gap = 'cascade_recovery_gap_seconds_%s{cause="stage_lost",recovery_class="rebuilt"}'
        assert sample(place, gap % "count") == 1
        assert sample(place, gap % "sum") == done[0].gap.ToMilliseconds() / 1000
        assert sample(place, 'cascade_sessions_ended_total{reason="complete"}') == 1
        assert sample(place, "cascade_controllers") == 0


async def test_the_page_names_metrics_that_exist() -> None:
    """Those of stages and decoders are asserted with them."""
    named = set(re.findall(r"`(cascade_(?!stage|decoder)\w+)`", PAGE.read_text()))
    assert len(named) >= 7
    async with town() as place:
        text = scrape(place)
    assert [name for name in named if f"# TYPE {name} " not in text] == []


def scrape(place: object) -> str:
    return generate_latest(place.server.telemetry.registry).decode()  # type: ignore[attr-defined]


def sample(place: object, name: str) -> float:
    (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", scrape(place), re.MULTILINE)
    return float(value)
