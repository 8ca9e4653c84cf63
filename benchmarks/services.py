"""The services: what the gateway adds under load, and what a client of the demo model waits for.

python -m benchmarks.services [--out FOLDER] [--only load first_segment switch fps] [--before CHECKOUT]

At most six minutes. The load runs against a stage and a decoder that compute nothing but send messages of
real size at playback rate; they and all clients share the machine with the gateway. The rest runs against
real services, started here, on the CPU. With `--before`, a folder with an earlier state of this repository,
one more table compares the two gateways: four more minutes.
"""

import argparse
import asyncio
import json
import os
import shlex
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from benchmarks import services_compare as comparison
from benchmarks import services_load as load
from benchmarks import services_real as real
from benchmarks.folders import need_folder
from cascade_client import CascadeClientError
from cascade_core.commands.bench import table
from cascade_core.machine import machine

Row = dict[str, Any]
TITLES = {
    "load": "One gateway under load: 600 kB of latents and a segment of 150 kB per session every 0.75 s",
    "compare": "This gateway and the one of an earlier commit, in turn under the same load",
    "first_segment": "Time to the first segment: a new session, warm services, demo model",
    "switch": "Prompt to picture: a viewer that plays at 16 pictures per second, demo model",
    "fps": "Pictures delivered by one stage and one decoder, clients take all that comes, demo model",
}
NOTES = {
    "first_segment": (
        "From sending CreateSession. One that begins from a picture (96x96, PNG) is answered once a decoder "
        "has encoded it."
    ),
    "load": (
        "`added_*_ms`: from the stage's sending of the latents and the decoder's sending of the segment to "
        "the client's receipt, without the time between receipt and sending at the decoder; waiting for a "
        "core that the fakes, the clients or others hold is in it. `of_playback`: segments received over "
        "those due. `faults`: gaps, repeats, wrong sizes, recoveries, sessions that did not end as asked. "
        "`sessions_per_core`: sessions over CPU seconds per second of the gateway. `other_cores`: fakes, "
        "clients and Redis. `machine_cores`: all that ran here."
    ),
    "compare": (
        "CPU of the gateway per block and its `added_p99_ms`, medians over the turns; `ratio`: of CPU per "
        "block, now to before, turn by turn. `redis_ms_per_block`: what Redis spends. Stage, decoder and "
        "clients are today's."
    ),
    "switch": (
        "From sending a switch to receiving the first segment that it changes (`received`), and to that "
        "segment's first picture on the screen (`shown`). The viewer acknowledges a segment when it has been "
        "played, so `max_unacked` is how far the video is made ahead of the screen."
    ),
}
TARGET_MS = {"memory": 50.0, "redis": 150.0}
"""Of the time that the gateway adds, at p99, by journal; with Redis on the same cores."""
REAL_S, MAX_S, COMPARE_S = 210.0, 345.0, 400.0
"""When the real services, and when all, must be done, and how long a comparison may last: what is not done by
then is left out, and named."""
NUM_SESSIONS = (200, 150, 100, 75, 50, 25)


async def measure_load(rows: list[Row], seconds: float) -> None:
    """With either journal, from the most sessions down to the first number that meets the target."""
    for uses_redis in (False, True):
        journal = "redis" if uses_redis else "memory"
        for num_sessions in NUM_SESSIONS:
            try:
                outcome = await load.measure(load.Load(num_sessions, seconds, uses_redis))
            except RuntimeError as error:  # too much to begin with: fewer may do
                print(f"{num_sessions} sessions: {error}", file=sys.stderr)
                unmeasured: Row = dict.fromkeys(rows[0]) if rows else {}
                rows.append(
                    unmeasured | {"journal": journal, "sessions": num_sessions, "meets_target": False}
                )
                continue
            for fault in outcome.faults[:5]:
                print(f"{num_sessions} sessions: {fault}", file=sys.stderr)
            meets = not outcome.faults and outcome.added(0.99) <= TARGET_MS[journal]
            rows.append(outcome.row() | {"meets_target": meets})
            if meets:
                break


async def measure_real(results: dict[str, list[Row]]) -> None:
    """The tables that are there, against one set of services."""
    async with real.services() as address:
        if "first_segment" in results:
            results["first_segment"] += await real.measure_first_segment(address)
        if "fps" in results:
            results["fps"] += await real.measure_fps(address)
        for max_unacked in (1, 2, 4) if "switch" in results else ():
            results["switch"].append(await real.measure_switch(address, max_unacked))


async def measure_compare(rows: list[Row], before: Path) -> None:
    async for row in comparison.compare(before):
        rows.append(row)


async def measure(names: Sequence[str], seconds: float, before: Path | None) -> dict[str, Any]:
    """All tables that were asked for; `missing` tells why one is not whole."""
    results: dict[str, Any] = {name: [] for name in TITLES if name in names}
    missing: dict[str, str] = {}
    start_s = asyncio.get_running_loop().time()
    steps: list[tuple[set[str], float, Coroutine[Any, Any, None]]] = []
    if real_names := set(names) - {"load", "compare"}:
        steps.append((real_names, REAL_S, measure_real(results)))
    if "load" in names:
        steps.append(({"load"}, MAX_S, measure_load(results["load"], seconds)))
    if before and "compare" in names:
        steps.append(({"compare"}, MAX_S + COMPARE_S, measure_compare(results["compare"], before)))
    for wanted, deadline_s, step in steps:
        print(f"measuring {', '.join(sorted(wanted))}", file=sys.stderr)
        try:
            async with asyncio.timeout_at(start_s + deadline_s):
                await step
        except (TimeoutError, RuntimeError, OSError, CascadeClientError) as error:
            missing[", ".join(sorted(wanted))] = f"{type(error).__name__}: {error}"
            print(f"not whole: {error!r}\n{error}", file=sys.stderr)
    return results | {"missing": missing}


def render(results: dict[str, Any]) -> str:
    """Markdown of all tables."""
    info = results["machine"]
    parts = [
        "# Services on the CPU",
        f"`{results['command']}` · {info['processor']}, {info['cores']} cores · torch {info['torch']} · "
        f"{info['date']} · load of the machine before: {info['load_before']:.2f}",
    ]
    for name, title in TITLES.items():
        if rows := results.get(name):
            parts += [f"## {title}", table(rows), *([NOTES[name]] if name in NOTES else [])]
    if load_rows := results.get("load"):
        parts.append(verdict(load_rows))
    parts += [f"Not whole: {names}: {why.splitlines()[0]}" for names, why in results["missing"].items()]
    return "\n\n".join(parts) + "\n"


def verdict(rows: Sequence[Row]) -> str:
    """Whether the target was met, and by how many sessions."""
    sentences = []
    for journal in dict.fromkeys(row["journal"] for row in rows):
        met = [row["sessions"] for row in rows if row["journal"] == journal and row["meets_target"]]
        tried = [row["sessions"] for row in rows if row["journal"] == journal]
        number = f"{max(met)} sessions met" if met else f"none of {tried} sessions met"
        sentences.append(f"Journal {journal}: {number} p99 <= {TARGET_MS[journal]:.0f} ms without a fault.")
    return " ".join(sentences)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    parser.add_argument("--only", nargs="+", choices=TITLES, default=list(TITLES), help="tables to measure")
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit, for `compare`")
    parser.add_argument("--load-seconds", type=float, default=15.0, help="counted seconds of each load")
    arguments = parser.parse_args()
    need_folder(arguments.out)
    info = machine() | {"load_before": os.getloadavg()[0]}
    results: dict[str, Any] = {"command": command(), "machine": info}
    results |= asyncio.run(measure(arguments.only, arguments.load_seconds, arguments.before))
    (arguments.out / "services.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.out / "services.md").write_text(render(results))
    print((arguments.out / "services.md").read_text())


def command() -> str:
    return shlex.join(["python", "-m", "benchmarks.services", *sys.argv[1:]])


if __name__ == "__main__":
    main()
