"""Every process is replaced under sessions that are watched, and nobody misses a picture. With ten sessions,
and timed: `python -m benchmarks.upgrade`."""

import pytest

from tests.services.support.fleet import KINDS, Shape, running_fleet
from tests.services.support.redis_support import needs_redis
from tests.services.support.rehearsal import Rehearsal, Upgrade, rehearse

pytestmark = [needs_redis, pytest.mark.timeout(900)]
FPS = 4
DEADLINE_S = 600.0
"""Far above what an emptied process takes to leave: one that waits for it would be seen."""


def causes(rehearsal: Rehearsal) -> set[tuple[str, str]]:
    return {kind for seen in rehearsal.seen for kind in seen.recoveries}


async def test_each_kind_is_replaced_once() -> None:
    """Two of them with a spare and one without: what a commit needs of the rehearsals below."""
    async with running_fleet(Shape(num_each=1, places=2, drain_deadline_s=DEADLINE_S)) as fleet:
        upgrades: list[Upgrade] = [("stage", "drained"), ("decoder", "surge"), ("gateway", "in place")]
        rehearsal = await rehearse(fleet, upgrades, 2, FPS)
        assert len(rehearsal.seen) == 3
        rehearsal.check()
        assert all(seen.step.leave_s < DEADLINE_S / 2 for seen in rehearsal.seen)
        stage, decoder, gateway = rehearsal.seen
        assert stage.recoveries[("MIGRATION", "REBUILT")] == 2
        assert decoder.recoveries[("MIGRATION", "UNAFFECTED")] == 2
        assert gateway.recoveries.total() >= 2


@pytest.mark.slow
async def test_with_a_spare_nobody_notices() -> None:
    """New processes serve before the old ones are asked to leave; those leave as soon as they are empty."""
    async with running_fleet(Shape(num_each=1, places=4, drain_deadline_s=DEADLINE_S)) as fleet:
        upgrades: list[Upgrade] = [("stage", "drained"), ("decoder", "surge"), ("gateway", "surge")]
        rehearsal = await rehearse(fleet, upgrades, 4, FPS)
        assert len(rehearsal.seen) == 3
        rehearsal.check()
        assert all(seen.step.leave_s < DEADLINE_S / 2 for seen in rehearsal.seen)
        assert causes(rehearsal) >= {("MIGRATION", "REBUILT"), ("MIGRATION", "UNAFFECTED")}


@pytest.mark.slow
async def test_without_a_spare_sessions_wait_for_the_new_process() -> None:
    """There is one of each, so what it had has nowhere to go until the next one serves."""
    shape = Shape(num_each=1, places=2, drain_deadline_s=1.0)
    async with running_fleet(shape) as fleet:
        rehearsal = await rehearse(fleet, [(kind, "in place") for kind in KINDS], 2, FPS)
        rehearsal.check()
        for seen in rehearsal.seen:
            assert seen.recoveries.total() >= 2, f"{seen.step}: both sessions were made good"
        for played in rehearsal.played:
            assert len(played.recoveries) >= 2, "they were told"
