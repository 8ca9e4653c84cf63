"""A day of arrivals and departures, and who would have scaled it how.

python -m benchmarks.day [--out FOLDER] [--plot FILE] [--seed N] [--processes N]

The gateway's admission, pools, keepers, scaler and deletion costs are the real ones; KEDA, HPA, ReplicaSet,
nodes and the insides of stage pods are simulated by their documented behaviour; time is virtual (see the
modules beside this one).
"""

import argparse
import dataclasses
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

from benchmarks.day.outcome import Row, breakdown, end_s, oracle_row, summarise
from benchmarks.day.plot import draw
from benchmarks.day.scenarios import KINDS, WARM, settings
from benchmarks.day.simulation import Setting, simulate
from benchmarks.folders import need_folder
from cascade_core.commands.arguments import at_least
from cascade_core.commands.bench import table
from cascade_core.machine import machine

SHOWN = "KEDA, 4 warm"
NOTES = (
    "`oracle`: knows the day, packs sessions perfectly at every moment, orders each pod just in time, is "
    "always lucky with the time it takes, and needs no minimum: who lets nobody wait cannot pay less.",
    "`wait`: from a session's arrival to its place, over all sessions. `waited`: how many waited at all.",
    "`gpu_hours`: 5 GPUs of each node from its order until the cluster autoscaler gives it back, 10 min "
    "after its pod. `held_gpu_hours`: of each pod from when it got its GPUs until it exited.",
    "`busy_chosen`: pods with sessions that the ReplicaSet picked for deletion. `moved_live`: sessions that "
    "then moved while they played. `cut`: whose stage ended under them. `lost`: that never got a place, or "
    "none after a loss.",
    "KEDA and HPA: the chart's and the gateway's defaults except for the warm places (`warm_stage_sessions`) "
    "and a stabilisation of 60 s on the way down. HPA on 70 %: Kubernetes' defaults.",
    "The scaler looks every 5 s (default 1 s) besides when KEDA asks, which spares the simulation time.",
    "A pod comes in 120 to 180 s (node), 45 to 75 s (image) and 80 to 120 s (model); on a node that another "
    "has just left, in the last of these.",
)


def measure(setting: Setting) -> dict[str, Any]:
    """One day, as plain data."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    day = simulate(setting)
    return {
        "name": setting.name,
        "row": summarise(day),
        "oracle": oracle_row(day),
        "shares": breakdown(day),
        "hours": setting.demand.hours,
        "start_hour": setting.demand.start_hour,
        "max_sessions": setting.hardware.max_sessions,
        "num_sessions": len(day.stories),
        "samples": [dataclasses.asdict(sample) for sample in day.samples if sample.at_s <= end_s(day)],
        "waits": [(story.visit.arrival_s, story.wait_s) for story in day.stories],
    }


def curve(kind: str, days: list[dict[str, Any]]) -> dict[str, Any]:
    """For the plot."""
    rows = {day["name"]: day["row"] for day in days}
    warm = [f"KEDA, {places} warm" for places in WARM[kind]]
    others = {name: row for name, row in rows.items() if not name.startswith(("KEDA", "HPA on the gauge"))}
    return {
        "title": KINDS[kind],
        "places": WARM[kind],
        "warm": [rows[name] for name in warm],
        "others": others,
    }


def render(results: dict[str, Any]) -> str:
    """Markdown."""
    now = results["machine"]
    parts = [
        "# A simulated day",
        f"`{results['command']}` · {now['processor']}, {now['cores']} cores · {now['date']} · seed "
        f"{results['seed']}",
    ]
    for kind, title in KINDS.items():
        found = results[kind]
        shares = [{"scaled by": name, **each} for name, each in found["shares"].items()]
        parts += [
            f"## {title}: {found['num_sessions']} sessions",
            table(found["table"]),
            "Where pods' time went, as shares of it:",
            table(shares),
        ]
    parts.append("\n".join(f"- {note}" for note in NOTES))
    return "\n\n".join(parts) + "\n"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.day", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    parser.add_argument("--plot", type=Path, default=Path("docs/images/day.png"), help="picture to draw")
    parser.add_argument("--seed", type=int, default=1, help="of the sessions and of all chance (default: 1)")
    parser.add_argument("--processes", type=at_least(1), default=2, help="days at once (default: 2)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    need_folder(options.out)
    need_folder(options.plot.parent, "--plot")
    given = shlex.join(sys.argv[1:] if arguments is None else arguments)
    results: dict[str, Any] = {
        "command": f"python -m benchmarks.day {given}".strip(),
        "machine": machine(),
        "seed": options.seed,
    }
    todo = {kind: settings(kind, options.seed) for kind in KINDS}
    with ProcessPoolExecutor(options.processes) as workers:
        measuring = workers.map(measure, [setting for each in todo.values() for setting in each])
        done = iter(tqdm(measuring, total=sum(map(len, todo.values()))))
        days = {kind: [next(done) for _ in each] for kind, each in todo.items()}
    for kind, each in days.items():
        results[kind] = {
            "num_sessions": each[0]["num_sessions"],
            "table": [each[0]["oracle"], *(day["row"] for day in each)],
            "shares": {day["name"]: day["shares"] for day in each},
        }
    shown = next(day for day in days["shared"] if day["name"] == SHOWN)
    write(results, options.out)
    draw(options.plot, shown, {kind: curve(kind, each) for kind, each in days.items()})
    print((options.out / "day.md").read_text())
    return 0


def write(results: Row, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "day.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "day.md").write_text(render(results))


if __name__ == "__main__":
    sys.exit(main())
