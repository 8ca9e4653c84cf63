"""`python -m benchmarks.chaos`, as it is run: few kills for each commit, many for the night."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.checks import FakeCheck
from benchmarks.chaos.content import NOTHING, make_block, prompt_mark
from benchmarks.chaos.faults import WEIGHTS, Fault, steps
from benchmarks.chaos.inflict import Inflicted
from benchmarks.chaos.installation import Shape
from benchmarks.chaos.measures import excuse
from benchmarks.chaos.outages import Span, deeper, longest_without, merge
from benchmarks.chaos.run import Outcome, Plan
from benchmarks.chaos.tally import Loss
from cascade_client import Segment
from tests.paths import ROOT
from tests.services.support.redis_support import needs_redis


def torment(folder: Path, *arguments: str, within_s: float) -> dict[str, Any]:
    """What it stored."""
    command = [sys.executable, "-m", "benchmarks.chaos", "--out", str(folder), "--logs", str(folder)]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=within_s)
    assert (folder / "chaos.json").exists(), done.stderr
    assert (folder / "chaos.md").read_text() in done.stdout
    results: dict[str, Any] = json.loads((folder / "chaos.json").read_text())
    assert done.returncode == 0, results["findings"]
    return results


def check(results: dict[str, Any], kills: int) -> None:
    """Everybody got everything."""
    whole = results["summary"][-1]
    assert whole["kills"] == kills
    assert (whole["lost"], whole["changed"], whole["sessions_lost"], whole["orphans"]) == (0, 0, 0, 0)
    assert whole["segments"] > whole["sessions"] > 0
    assert sum(row["kills"] for row in results["kinds"]) == kills


FEW, SEED = 16, 101992
"""So many faults of this seed are of every action, kill each kind of process, and freeze none for long."""


def test_the_few_are_of_every_kind() -> None:
    faults = [*islice((fault for step in steps(SEED, 0.6) for fault in step.faults), FEW)]
    assert {fault.action for fault in faults} == {action for action, _ in WEIGHTS}
    killed = {fault.target for fault in faults if fault.action == "KILL"}
    assert killed == {target for action, target in WEIGHTS if action == "KILL"}
    assert max(fault.seconds for fault in faults) < 5


@needs_redis
def test_few_kills(tmp_path: Path) -> None:
    """With TLS and keys, at a pace that leaves no time between two faults."""
    few = ("--kills", f"{FEW}", "--seed", f"{SEED}", "--tls", "on", "--sessions", "6", "--pace", "0.6")
    check(torment(tmp_path, *few, within_s=280), FEW)


@needs_redis
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hundred_kills(tmp_path: Path) -> None:
    check(torment(tmp_path, "--kills", "300", "--seed", "2", within_s=1750), 300)


def test_the_plan_follows_from_the_seed() -> None:
    one, same, other = ([*islice(steps(seed, 1.5), 2000)] for seed in (1, 1, 2))
    assert one == same != other
    assert {(fault.action, fault.target) for step in one for fault in step.faults} == set(WEIGHTS)
    assert all(1 <= fault.seconds <= 30 for step in one for fault in step.faults if fault.action == "STOP")


def segments(seed: int, prompts: list[str]) -> list[Segment]:
    """As the fake engine makes them, one block under each prompt."""
    found, digest = [], NOTHING
    for number, prompt in enumerate(prompts):
        block = make_block(seed, number, prompt_mark(prompt), digest)
        data = block.segment(digest)
        digest = block.digest
        found.append(Segment(number + 1, number, 1, 0, 12, 0.0, 0.75, datetime.now(UTC), "default", data))
    return found


def test_what_is_wrong_is_noticed() -> None:
    """A block of another session, one left out, and one under another prompt."""
    right, foreign = segments(1, ["a", "a", "a"]), segments(2, ["a", "a", "a"])
    check = FakeCheck(1, "a")
    assert [check.complaint(b"", segment) for segment in right] == ["", "", ""]
    for wrong in ([right[0], foreign[1]], [right[1]], segments(1, ["a", "b"])):
        check = FakeCheck(1, "a")
        assert [bool(check.complaint(b"", segment)) for segment in wrong][-1]


def test_outages() -> None:
    assert merge([(5.0, 6.0), (1.0, 3.0), (2.0, 4.0)]) == [(1.0, 4.0), (5.0, 6.0)]
    assert deeper([(1.0, 3.0), (2.0, 5.0), (4.0, 6.0)], 1) == [(2.0, 3.0), (4.0, 5.0)]
    assert deeper([(1.0, 2.0), (1.0, 3.0), (4.0, 5.0)], 0) == [(1.0, 3.0), (4.0, 5.0)]
    assert longest_without((0.0, 10.0), [(1.0, 4.0), (5.0, 6.0)]) == 4.0
    assert longest_without((2.0, 5.5), [(1.0, 4.0), (5.0, 6.0)]) == 1.0
    assert longest_without((1.5, 3.0), [(1.0, 4.0)]) == 0.0
    assert longest_without((7.0, 9.0), []) == 2.0


@pytest.mark.parametrize(
    ("gateway_s", "redis_s", "unwatched", "is_excused"),
    [
        (10.0, 15.0, [], True),
        (10.0, 30.0, [], False),
        (10.0, 30.0, [(12.0, 20.0)], False),
        (10.0, 30.0, [(12.0, 18.0), (20.0, 25.0)], True),
        (10.0, 30.0, [(10.0, 21.0)], False),
        (15.0, 10.0, [], True),
        (30.0, 10.0, [], False),
    ],
)
def test_what_excuses_a_lost_session(
    gateway_s: float, redis_s: float, unwatched: list[Span], is_excused: bool
) -> None:
    """Its gateway and what Redis had: within 8 s, or without 8 s in which another could have had it."""
    shape = Shape("fake", uses_tls=False)
    outcome = Outcome(Plan(0, 1, 2, 1.0, 1, shape, 60.0), unwatched=unwatched)
    outcome.inflicted = [
        Inflicted(1, Fault("KILL", "gateway", 0.0), "gateway-0", gateway_s),
        Inflicted(2, Fault("EMPTY", "Redis", 0.0), "redis", redis_s),
    ]
    assert bool(excuse(outcome, Loss("s", "gone", 40.0, 1, 1))) is is_excused
