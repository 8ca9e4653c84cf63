"""A rolling upgrade while people watch: how long their pictures stand still, with real processes.

python -m benchmarks.upgrade [--out FOLDER] [--sessions N] [--fps N]

Two stages, two decoders, two gateways and a Redis; gateways find the others by EndpointSlices of a test API
server, clients reach them through one address, as through a Service. Every stage, decoder and gateway is
replaced by a new process at a new address: first with a spare (`surge`: the new one serves, then the old one
gets SIGTERM), then without one (`in place`), last in place where the other has no place for anybody (`full`).
Fails where a segment is lost, comes twice or does not decode, or a process does not end with status 0.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from benchmarks.folders import need_folder
from cascade_core.commands.arguments import at_least
from cascade_core.commands.bench import table
from cascade_core.machine import machine
from tests.services.support.fleet import Shape, running_fleet
from tests.services.support.rehearsal import ROLLING, Rehearsal, Seen, Upgrade, rehearse

Row = dict[str, Any]
FULL: tuple[Upgrade, ...] = (("stage", "in place"), ("decoder", "in place"))
FULL_DEADLINE_S = 5.0
"""A session without a place to go stays to the drain deadline: no need to wait long for it."""
NOTES = (
    "`start_up`: from the start of the new process until it serves. `leave`: from SIGTERM until the old one "
    "has ended; the drain deadline is 30 s (`full`: 5 s), so what is well below it left as soon as it was "
    "empty. Of a gateway it holds 1 s of notice, in which a Service learns that it leaves.",
    "`stall`: the longest time between two segments at any client, beyond what the first of them lasts; "
    "`ratio`: that time as a multiple of what it lasts. A session that stands at its credit gets one segment "
    "per ack, so without any loss the ratio is 1.",
    "`standstill`: the longest that a picture stood still, at a player with the default credit of four "
    "segments.",
    "`recoveries`: as the gateways count, all sessions together.",
    "In `full`, sessions wait for the new process, so the stall holds its start.",
)


def row_of(seen: Seen, name: str) -> Row:
    counted = sorted(seen.recoveries.items())
    return {
        "replaced": f"{seen.step.kind} {seen.step.number}",
        "way": name or seen.step.way,
        "start_up_s": round(seen.step.start_up_s, 2),
        "leave_s": round(seen.step.leave_s, 2),
        "stall_s": round(seen.stall_s, 2),
        "ratio": round(seen.stall_ratio, 2),
        "standstill_s": round(seen.standstill_s, 2),
        "recoveries": ", ".join(f"{number} {cause} {kind}" for (cause, kind), number in counted) or "none",
    }


async def measure(shape: Shape, upgrades: Sequence[Upgrade], options: argparse.Namespace) -> Rehearsal:
    """Raises AssertionError where somebody lost something."""
    async with running_fleet(shape) as fleet:
        with tqdm(total=len(upgrades) * shape.num_each) as bar:

            def tell(_: Seen) -> None:
                bar.update()

            rehearsal = await rehearse(fleet, upgrades, options.sessions, options.fps, tell)
    rehearsal.check()
    return rehearsal


def write(results: Row, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "upgrade.json").write_text(json.dumps(results, indent=2) + "\n")
    now = results["machine"]
    lines = [
        "# Rolling upgrade under watched sessions",
        f"`{results['command']}` · {now['processor']}, {now['cores']} cores · torch {now['torch']} · "
        f"{now['date']} · {results['sessions']} sessions at {results['fps']} pictures a second (a segment "
        f"lasts {results['segment_s']:g} s) · load of the machine {results['load']} · seconds",
        f"{results['segments']} segments were watched: none lost, none repeated, all decoded. Longest stall "
        f"{results['longest_stall_s']:g} s, without `full`; longest standstill "
        f"{results['longest_standstill_s']:g} s.",
        table(results["table"]),
        "\n".join(f"- {note}" for note in NOTES),
    ]
    (folder / "upgrade.md").write_text("\n\n".join(lines) + "\n")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    parser.add_argument("--sessions", type=at_least(2), default=10, help="watched at a time (default: 10)")
    parser.add_argument(
        "--fps",
        type=at_least(1),
        default=4,
        help="of each: what the machine can (default: 4)",
    )
    return parser.parse_args(arguments)


async def run(options: argparse.Namespace) -> Row:
    number = options.sessions
    rolling = await measure(Shape(places=number), ROLLING, options)
    half = (number + 1) // 2
    full = await measure(Shape(places=half, drain_deadline_s=FULL_DEADLINE_S), FULL, options)
    played = [*rolling.played, *full.played]
    return {
        "machine": machine(),
        "load": "{:.1f}, {:.1f}, {:.1f} (1, 5, 15 min)".format(*psutil.getloadavg()),
        "sessions": number,
        "fps": options.fps,
        "segment_s": played[0].segments[-1].duration_s,
        "segments": sum(len(one.segments) for one in played),
        "longest_stall_s": round(max(seen.stall_s for seen in rolling.seen), 2),
        "longest_standstill_s": round(max(seen.standstill_s for seen in rolling.seen), 2),
        "table": [
            *(row_of(seen, "") for seen in rolling.seen),
            *(row_of(seen, "full") for seen in full.seen),
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    need_folder(options.out)
    command = f"python -m benchmarks.upgrade --sessions {options.sessions} --fps {options.fps}"
    results = {"command": command, **asyncio.run(run(options))}
    write(results, options.out)
    print((options.out / "upgrade.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
