"""Machines die, freeze and leave under a running session; its client sees one unbroken video."""

import asyncio
import signal

import pytest

from cascade.v1 import common_pb2
from cascade_client import Client
from tests.services.support import faults
from tests.services.support.faults import CASES, NUM_BLOCKS, Case, Outcome
from tests.services.support.playing import Played, jumps, playing, psnr_db
from tests.services.support.redis_support import needs_redis
from tests.services.support.system import System

pytest_plugins = ("tests.services.support.system_fixtures",)
pytestmark = needs_redis
MAX_GAP_S = 60.0
"""Only a session that had to wait for something that it should not; figures: benchmarks/recovery.py."""
MAX_AHEAD = 3
"""Segments that a client may have of what its dead gateway had not stored yet."""
MIN_PSNR_DB = 35.0
"""Between pictures that nobody can tell apart after encoding."""


@pytest.fixture(scope="module")
def undisturbed(processes: System) -> Played:
    """The same session, nothing happens to it."""
    processes.ready()
    played = asyncio.run(faults.run(faults.UNDISTURBED, processes)).played
    played.check(NUM_BLOCKS)
    assert not played.recoveries
    return played


COMMIT = (
    "kill -9 of a rank",
    "kill -9 of the decoder",
    "kill -9 of the gateway",
    "Redis restarts without its data",
    "SIGTERM of the stage",
)
"""One loss of each kind of process and one move; the others are slow."""


PARAMETERS = [
    pytest.param(case, marks=() if case.name in COMMIT else (pytest.mark.slow,), id=case.name)
    for case in CASES
]


def tell(case: Case, outcome: Outcome) -> None:
    gap = "none" if outcome.gap_s is None else f"{outcome.gap_s:.2f} s"
    played = outcome.played
    print(
        f"\n{case.name}: gap {gap}, longest wait for a segment {played.longest_wait_s:.2f} s, "
        f"standstill on the screen {played.standstill_s:.2f} s"
    )


@pytest.mark.parametrize("case", PARAMETERS)
async def test_the_session_goes_on(case: Case, undisturbed: Played, system: System) -> None:
    outcome = await faults.run(case, system)
    tell(case, outcome)
    played = outcome.played
    played.check(NUM_BLOCKS)
    assert jumps(played.track()).max() <= jumps(undisturbed.track()).max()
    check_pictures(outcome, undisturbed, is_unaffected=case.recovery_class == "UNAFFECTED")

    assert outcome.cause == case.cause
    if case.cause is None:
        assert not played.recoveries
        return
    assert outcome.gap_s is not None
    assert outcome.gap_s < MAX_GAP_S
    assert outcome.first_block is not None
    later = [each for each in played.segments[outcome.first_block :] if each.epoch > played.segments[0].epoch]
    first = later[0]
    # Who has come from a gateway that died may have had some of what is made again.
    assert first.block - outcome.first_block <= (MAX_AHEAD if case.moves_client else 0)
    if played.recoveries or not case.moves_client:
        (told,) = played.recoveries
        assert (told.cause, told.recovery_class) == (case.cause, case.recovery_class)
        assert (told.first_sequence, told.epoch) == (outcome.first_block + 1, first.epoch)
        assert told.gap_s == pytest.approx(outcome.gap_s, abs=0.001)
        assert played.events.index(told) < played.events.index(first)


def check_pictures(outcome: Outcome, undisturbed: Played, *, is_unaffected: bool) -> None:
    """Those that would have come anyway: to the byte without a recovery and before one, and to the eye after
    one that left the latents as they were."""
    num_same = NUM_BLOCKS if outcome.first_block is None else outcome.first_block
    first_epoch = outcome.played.segments[0].epoch
    for segment, expected in zip(outcome.played.segments[:num_same], undisturbed.segments, strict=False):
        # Of two machines that are lost one can be replaced before the loss of the other is noticed.
        if outcome.first_block is None or segment.epoch == first_epoch:
            assert segment.data == expected.data, f"block {segment.block}"
    if is_unaffected:
        assert psnr_db(outcome.played, undisturbed).min() >= MIN_PSNR_DB


@pytest.mark.slow
async def test_health_follows_progress(system: System) -> None:
    async with Client(system.target) as client:
        session = await client.create(faults.PROMPT, seed=faults.SEED, num_blocks=NUM_BLOCKS)
        async with playing(client, session) as player:
            await player.reached(faults.FAULT_SEQUENCE)
            stage = system.busy_stage()
            ranks = stage.workers()
            for rank in ranks:
                rank.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(system.wait, "it does not serve", lambda: stage.health() == "NOT_SERVING")
            assert stage.status().state == common_pb2.SERVING_STATE_UNHEALTHY
            await player.reached(faults.FAULT_SEQUENCE + 5)  # more than had been made by then: elsewhere
            assert stage.health() == "NOT_SERVING"
            for rank in ranks:
                rank.send_signal(signal.SIGCONT)
            await asyncio.to_thread(system.wait, "it serves again", lambda: stage.health() == "SERVING")
    player.played.check(NUM_BLOCKS)
    assert [done.cause for done in player.played.recoveries] == ["STAGE_LOST"]
