"""How long a crowd waits, and what was tried against it: several days, several seeds.

python -m benchmarks.day.crowds [--out FOLDER] [--seeds N] [--processes N]

What is real and what is simulated: see `benchmarks.day`. The files are written anew after each seed.
"""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import structlog
from tqdm import tqdm

from benchmarks.day.outcome import Row, crowd_row, mean_row
from benchmarks.day.scenarios import KINDS, tried
from benchmarks.day.simulation import Setting, simulate
from benchmarks.folders import need_folder
from cascade_core.commands.arguments import at_least
from cascade_core.commands.bench import table
from cascade_core.machine import machine

NOTES = (
    "KEDA, one warm place (`warm_stage_sessions`), all else the chart's and the gateway's defaults, as in "
    "[`day.md`](day.md). Means over the seeds; sums of the five columns from `busy_chosen` on.",
    "`crowd`: those who come in a burst (its first and its last cannot be told from others by the gateway); "
    "`others`: all the rest.",
    "`slow_percent`: of the time played, on a pod with more sessions than it keeps up with: at 5 of 4 each "
    "gets 80 % of its pictures, at 6 of 4 67 %.",
    "`busy_chosen`: pods with sessions that the ReplicaSet picked for deletion; their sessions moved while "
    "they played (`moved_live`). `refused`: a stage that somebody else was first at.",
)


def measure(setting: Setting) -> Row:
    """One day."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return crowd_row(simulate(setting))


def render(results: dict[str, Any]) -> str:
    """Markdown."""
    now, seeds = results["machine"], ", ".join(map(str, results["seeds"]))
    parts = [
        "# Who comes with a crowd, on a simulated day",
        f"`{results['command']}` · {now['processor']}, {now['cores']} cores · {now['date']} · seeds {seeds}",
    ]
    for kind, title in KINDS.items():
        parts += [f"## {title}", table(results[kind])]
    parts.append("\n".join(f"- {note}" for note in NOTES))
    return "\n\n".join(parts) + "\n"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.day.crowds", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    parser.add_argument("--seeds", type=at_least(1), default=2, help="1 to that (default: 2)")
    parser.add_argument("--processes", type=at_least(1), default=2, help="days at once (default: 2)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    need_folder(options.out)
    given = shlex.join(sys.argv[1:] if arguments is None else arguments)
    command = f"python -m benchmarks.day.crowds {given}".strip()
    found: dict[str, dict[str, list[Row]]] = {kind: {} for kind in KINDS}
    todo = [
        (seed, kind, each)
        for seed in range(1, options.seeds + 1)
        for kind in KINDS
        for each in tried(kind, seed)
    ]
    with ProcessPoolExecutor(options.processes) as workers:
        rows = workers.map(measure, [each for _, _, each in todo])
        for number, row in enumerate(tqdm(rows, total=len(todo))):
            seed, kind, setting = todo[number]
            found[kind].setdefault(setting.name, []).append(row)
            if number + 1 == len(todo) or todo[number + 1][0] != seed:
                means = {
                    kind: [mean_row(name, days) for name, days in names.items()]
                    for kind, names in found.items()
                }
                results = {
                    "command": command,
                    "machine": machine(),
                    "seeds": list(range(1, seed + 1)),
                    **means,
                }
                write(results, options.out)
    print((options.out / "day-crowds.md").read_text())
    return 0


def write(results: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "day-crowds.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "day-crowds.md").write_text(render(results))


if __name__ == "__main__":
    sys.exit(main())
