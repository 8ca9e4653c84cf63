"""Runs the plan on a rented GPU until a given second.

python3 -m benchmarks.rented [--seconds 600] [--device cuda] [--steps NAME ...] [--dry-run]
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

MIN_PYTHON = (3, 11)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.rented", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="all is over by then (default: 600)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: all in tiny sizes")
    parser.add_argument("--steps", nargs="+", metavar="NAME", help="these alone, in the plan's order")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="tables and logs (default: out/gpu)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run")
    return parser.parse_args(arguments)


def leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every step that was begun did well. 1: one did not. 2: this machine cannot run the plan."""
    options = parse_arguments(arguments)
    if sys.version_info < MIN_PYTHON:
        needed = ".".join(map(str, MIN_PYTHON))
        print(f"gpu: needs Python {needed} or newer, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    from benchmarks.rented.packages import CannotRun  # in the syntax of a newer Python
    from benchmarks.rented.plan import run_plan, show_plan

    signal.signal(signal.SIGTERM, leave)  # so that what runs ends with us
    words = shlex.join(sys.argv[1:] if arguments is None else arguments)
    try:
        if options.dry_run:
            show_plan(options)
            return 0
        return run_plan(options, f"python3 -m benchmarks.rented {words}".strip())
    except CannotRun as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
