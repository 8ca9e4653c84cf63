"""The whole run: look at the machine, install what it lacks, run the steps, report."""

import argparse
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.rented.found import look
from benchmarks.rented.outcomes import Outcome, write_report
from benchmarks.rented.packages import CannotRun, install_missing
from benchmarks.rented.places import OUT, PACK, PACKAGES
from benchmarks.rented.run import Deadline, run_steps
from benchmarks.rented.steps import Step, make_steps


def run_plan(options: argparse.Namespace, command: str) -> int:
    """0 where every step that was begun did well. Raises CannotRun."""
    deadline = Deadline(options.seconds)
    folder: Path = options.out or OUT
    folder.mkdir(parents=True, exist_ok=True)
    steps = chosen(options, folder)
    forget(steps, folder)
    machine = look(options.device)
    print(f"torch {machine['torch']}, {machine['num_gpus']} x {machine['gpu'] or 'no GPU'}", flush=True)
    installed = install_missing(PACK, PACKAGES, folder / "packages.log")
    if installed:
        print(f"installed into {PACKAGES}: {', '.join(installed)}", flush=True)
    report = partial(write_report, folder, machine, command)
    report([])

    def told(outcomes: Sequence[Outcome]) -> None:
        last = outcomes[-1]
        print(f"{last.step}: {last.state}, {last.seconds:.0f} s {last.reason}".rstrip(), flush=True)
        report(outcomes)

    outcomes = run_steps(steps, deadline, folder, told, PACKAGES)
    print(f"tables: {folder / 'report.md'}")
    return 1 if any(each.state in ("failed", "ended") for each in outcomes) else 0


def forget(steps: Sequence[Step], folder: Path) -> None:
    """What an earlier run left: no table of it is to pass for one of this run."""
    names = ("report", *(step.name for step in steps))
    for path in (folder / f"{name}{kind}" for name in names for kind in (".md", ".json", ".log")):
        path.unlink(missing_ok=True)


def show_plan(options: argparse.Namespace) -> None:
    """Which steps are sure to be begun in time, if each takes as long as it is estimated."""
    left_s: float = options.seconds
    for step in chosen(options, options.out or OUT):
        fits = step.estimate_s <= left_s
        left_s -= step.estimate_s if fits else 0
        print(f"{step.name}: {step.estimate_s:.0f} s{'' if fits else ', if time is left'}")
        print(f"    {shlex.join(step.command)}")


def chosen(options: argparse.Namespace, folder: Path) -> list[Step]:
    steps = make_steps(options.device, str(folder))
    names = [step.name for step in steps]
    if unknown := [name for name in options.steps or () if name not in names]:
        raise CannotRun(f"--steps: no step {', '.join(unknown)}; there are {', '.join(names)}")
    return [step for step in steps if not options.steps or step.name in options.steps]
