"""How long a session stands still when something is lost under it, with real processes on this machine.

python -m benchmarks.recovery [--out FOLDER] [--repeats N] [--only PART_OF_A_NAME ...]

Two stages of two ranks, two decoders, two gateways and a Redis; one session of the demo model is played at
its own speed, with the gateway's default credit of four segments, and one fault hits it. What is down comes
back only after the session is over, so that loading a model takes nothing from the recovery.
"""

import argparse
import asyncio
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.folders import need_folder
from cascade_core.commands.arguments import at_least
from cascade_core.commands.bench import table
from cascade_core.machine import machine
from tests.services.support.faults import CASES, NUM_BLOCKS, UNDISTURBED, Case, run
from tests.services.support.system import System, running_system

Row = dict[str, Any]
NOTES = (
    "`gap`: as the gateway tells its clients in `RecoveryDone`, from the last segment before the loss to the "
    "first one after it. A session that stands at its credit waits up to a block (0.75 s) for the next ack "
    "without any loss, which is in it.",
    "`wait`: the longest time between two segments at the client.",
    "`standstill`: how long the picture stood still, all waits together, at a player that shows each segment "
    "when the one before has ended.",
    "Two values: median / largest of the repeats.",
)


def measure(system: System, case: Case) -> Row:
    """One session, seconds. Raises AssertionError where the video is not whole."""
    system.ready()
    outcome = asyncio.run(run(case, system))
    outcome.played.check(NUM_BLOCKS)
    told = outcome.played.recoveries
    return {
        "cause": outcome.cause,
        "class": told[0].recovery_class if told else None,
        "gap_s": outcome.gap_s,
        "wait_s": round(outcome.played.longest_wait_s, 3),
        "standstill_s": round(outcome.played.standstill_s, 3),
    }


def summarise(case: Case, runs: list[Row]) -> Row:
    return {
        "fault": case.name,
        "cause": runs[0]["cause"] or "none",
        "class": runs[0]["class"] or "none",
        **{name: spread([row[f"{name}_s"] for row in runs]) for name in ("gap", "wait", "standstill")},
    }


def spread(values: list[float | None]) -> str:
    """Median / largest."""
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.2f} / {max(known):.2f}" if known else "none"


def write(results: Row, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recovery.json").write_text(json.dumps(results, indent=2) + "\n")
    now = results["machine"]
    lines = [
        "# Recovery of a session",
        f"`{results['command']}` · {now['processor']}, {now['cores']} cores · torch {now['torch']} · "
        f"{now['date']} · {results['repeats']} repeats · seconds",
        table(results["table"]),
        "\n".join(f"- {note}" for note in NOTES),
    ]
    (folder / "recovery.md").write_text("\n\n".join(lines) + "\n")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    parser.add_argument("--repeats", type=at_least(1), default=3, help="sessions per fault (default: 3)")
    parser.add_argument("--only", nargs="+", default=[""], help="faults whose names contain one of these")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    need_folder(options.out)
    cases = [case for case in (UNDISTURBED, *CASES) if any(part in case.name for part in options.only)]
    given = shlex.join(sys.argv[1:] if arguments is None else arguments)
    results: Row = {
        "command": f"python -m benchmarks.recovery {given}".strip(),
        "machine": machine(),
        "repeats": options.repeats,
        "table": [],
        "runs": {},
    }
    with running_system() as system:
        for case in tqdm(cases):
            runs = [measure(system, case) for _ in range(options.repeats)]
            results["runs"][case.name] = runs
            results["table"].append(summarise(case, runs))
            write(results, options.out)
    print((options.out / "recovery.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
