"""Steps one after the other until a given second; after each the report is written."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.rented.outcomes import Outcome
from benchmarks.rented.places import ROOT
from benchmarks.rented.processes import ASKED_S, last_line, run_process
from benchmarks.rented.steps import Step

OVERRUN = 2.0
"""Times its estimate that a step may take, so that one that hangs leaves time to the rest."""
Report = Callable[[Sequence[Outcome]], None]


class Deadline:
    """The second at which all is over, counted from the start."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    @property
    def left_s(self) -> float:
        """For a process, which may take as long again as it is asked to end."""
        return self._end - self._now() - ASKED_S


def run_steps(
    steps: Sequence[Step], deadline: Deadline, folder: Path, report: Report, packages: Path
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for step in steps:
        outcomes.append(run_step(step, deadline.left_s, folder, packages))
        report(outcomes)
    return outcomes


def run_step(step: Step, left_s: float, folder: Path, packages: Path) -> Outcome:
    if step.estimate_s > left_s:
        reason = f"takes {step.estimate_s:.0f} s, {max(0, left_s):.0f} s are left"
        return Outcome(step.name, "skipped", 0.0, reason)
    limit_s = min(left_s, OVERRUN * step.estimate_s)
    log = folder / f"{step.name}.log"
    started = time.monotonic()
    status = run_process(step.command, log, environment(packages), limit_s)
    seconds = time.monotonic() - started
    if status is None:
        return Outcome(step.name, "ended", seconds, f"took longer than {limit_s:.0f} s: {last_line(log)}")
    if status:
        return Outcome(step.name, "failed", seconds, f"exit status {status}: {last_line(log)}")
    return Outcome(step.name, "done", seconds)


def environment(packages: Path) -> dict[str, str]:
    """Ours; what was installed for the run is found, and nothing is looked for in a network."""
    paths = [str(packages), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }
