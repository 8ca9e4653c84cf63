"""A thousand kills under sessions that are watched, and what their clients saw of it.

python -m benchmarks.chaos [--kills N] [--seed N] [--engine fake|demo|both] [--seconds N]
                           [--tls half|on|off] [--sessions N] [--pace SECONDS] [--out FOLDER] [--logs FOLDER]
python -m benchmarks.chaos --gateway ADDRESS [--seconds N] [--sessions N] [--ca FILE] [--out FOLDER]

Two gateways, three stages, three decoders and a Redis with a replica run as processes on this machine;
clients play sessions through them, steer them and look on, while processes are killed, ended, frozen and cut
off, one or two at once, and started again. Every segment is checked. A thousand kills are ten installations,
one after the other; the same seed does the same things. Exits with 1 where a session or a segment was lost
or changed, somebody stands still for good, or a process was left.

With --gateway nothing is started and nothing is killed: it watches sessions of an installation that somebody
else torments. A key for it comes from CASCADE_API_KEY.
"""

import argparse
import asyncio
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.chaos.installation import Shape
from benchmarks.chaos.measures import Row, findings
from benchmarks.chaos.report import render, results_of, write
from benchmarks.chaos.run import RETRY_S, Outcome, Plan, run, watch
from benchmarks.folders import need_folder
from cascade_client import Client, Tls
from cascade_core.commands.arguments import at_least
from cascade_core.machine import machine

RUN_KILLS = 100
"""Of one installation."""
SECONDS, WATCHED_SECONDS = 7200, 60
ENGINES = {"fake": ("fake",), "demo": ("demo",), "both": ("fake", "fake", "fake", "fake", "demo")}
"""Of one installation after the other."""
SESSIONS = {"fake": 12, "demo": 4, "foreign": 12}
PACE_S = {"fake": 1.25, "demo": 4.0, "foreign": 0.0}
"""A stage of the demo model takes several seconds of a core to be back."""
TLS = {"half": (False, True), "on": (True,), "off": (False,)}


def plans(options: argparse.Namespace) -> list[Plan]:
    """One for each installation."""
    chance = random.Random(options.seed)
    found: list[Plan] = []
    per_run = min(RUN_KILLS, -(-options.kills // len(TLS[options.tls])))
    left = options.kills
    while left > 0:
        number, kills = len(found), min(per_run, left)
        engines, halves = ENGINES[options.engine], TLS[options.tls]
        shape = Shape(engines[number % len(engines)], uses_tls=halves[number % len(halves)])
        found.append(plan(options, number, chance.getrandbits(32), kills, shape))
        left -= per_run
    return found


def plan(options: argparse.Namespace, number: int, seed: int, kills: int, shape: Shape) -> Plan:
    pace_s = options.pace or PACE_S[shape.engine]
    num_sessions = options.sessions or SESSIONS[shape.engine]
    return Plan(number, seed, kills, pace_s, num_sessions, shape, options.ends_at_s)


async def torment(options: argparse.Namespace, folder: Path) -> AsyncIterator[Outcome]:
    """One installation after the other. Only those with findings keep their logs."""
    with tqdm(total=options.kills, unit="kill") as bar:

        def tell(_: Outcome) -> None:
            bar.update()

        for each in plans(options):
            if time.monotonic() > each.ends_at_s:
                break
            logs = folder / f"run-{each.number}"
            logs.mkdir()
            outcome = await run(each, logs, tell)
            if not findings(outcome):
                shutil.rmtree(logs)
            yield outcome


async def watch_only(options: argparse.Namespace) -> AsyncIterator[Outcome]:
    """Sessions of somebody else's installation."""
    key = os.environ.get("CASCADE_API_KEY")
    tls = Tls(ca=options.ca) if options.ca else None
    addresses = options.gateway.split(",")

    def client(first: int) -> Client:
        first %= len(addresses)
        target = ",".join(addresses[first:] + addresses[:first])
        return Client(target, api_key=key, tls=tls, retry_for_s=RETRY_S)

    shape = Shape("foreign", uses_tls=bool(options.ca))
    yield await watch(plan(options, 0, options.seed, 0, shape), client)


async def measure(options: argparse.Namespace, head: Row, folder: Path) -> Row:
    """What there is so far is stored after each installation."""
    outcomes: list[Outcome] = []
    results = results_of(head, outcomes)
    async for outcome in watch_only(options) if options.gateway else torment(options, folder):
        outcomes.append(outcome)
        results = results_of(head, outcomes)
        write(results, options.out)
    return results


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the tables (benchmarks/results; watched: out)")
    parser.add_argument("--kills", type=at_least(1), default=1000, help="in all (default: 1000)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="of what happens (default: 1)")
    engine = "fake: computes nothing (default); both: demo in each fifth installation"
    parser.add_argument("--engine", choices=ENGINES, default="fake", help=engine)
    parser.add_argument("--seconds", type=at_least(1), help="no fault later (default: 7200; watched: 60)")
    parser.add_argument("--tls", choices=TLS, default="half", help="of the installations (default: half)")
    parser.add_argument("--sessions", type=at_least(1), help="at a time (default: 12; demo: 4)")
    parser.add_argument("--pace", type=float, help="seconds between faults (default: 1.25; demo: 4)")
    parser.add_argument("--logs", type=Path, help="where the logs of runs with findings stay")
    parser.add_argument("--gateway", help="addresses of the gateways to watch, with commas between")
    parser.add_argument("--ca", type=Path, help="who signs their certificates; without: plain text")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (WATCHED_SECONDS if options.gateway else SECONDS)
    options.out = options.out or Path("out" if options.gateway else "benchmarks/results")
    options.ends_at_s = time.monotonic() + options.seconds
    return options


def command(options: argparse.Namespace) -> str:
    """The command that does the same things again."""
    watched, ours = ("gateway", "sessions", "seconds"), ("kills", "seed", "engine", "tls", "sessions", "pace")
    names = watched if options.gateway else ours
    given = [(name, getattr(options, name)) for name in names if getattr(options, name) is not None]
    words = [word for name, value in given for word in (f"--{name}", f"{value}")]
    return shlex.join(["python", "-m", "benchmarks.chaos", *words])


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    need_folder(options.out)
    if options.logs:
        need_folder(options.logs, "--logs")
    head: Row = {
        "command": command(options),
        "machine": machine(),
        "load": "{:.1f}, {:.1f}, {:.1f} (1, 5, 15 min)".format(*os.getloadavg()),
        "engine": "not ours" if options.gateway else options.engine,
        "seed": options.seed,
    }
    folder = Path(tempfile.mkdtemp(prefix="cascade-chaos-", dir=options.logs))
    try:
        results = asyncio.run(measure(options, head, folder))
    finally:
        if any(folder.iterdir()):
            print(f"logs: {folder}", file=sys.stderr)
        else:
            folder.rmdir()
    print(render(results))
    return int(any(is_bad(each) for each in results["findings"]))


def is_bad(finding: Row) -> bool:
    """How long somebody stood still is for people to judge."""
    return finding["what"] != "stood still" and not finding.get("excuse")


if __name__ == "__main__":
    sys.exit(main())
