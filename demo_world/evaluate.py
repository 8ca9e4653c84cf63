"""`python -m demo_world.evaluate`: is the cascade as good as sequential generation? Scored, with intervals.

Every configuration makes the same clips (prompts and seeds), through the engine that serves users. What is
measured of a clip is kept once done, in `<name>.rows.jsonl` beside the figures: the same command goes on
where it was stopped, and one that asks for more clips begins with those that are there.
"""

import argparse
import asyncio
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cascade_core.config import find_card
from cascade_core.errors import InvalidConfig
from cascade_core.machine import machine
from demo_world.arguments import Parser, check_files, run, whole
from demo_world.configurations import (
    EXPERIMENTS,
    IN_FP8,
    SWITCH_MODES,
    Amounts,
    baseline_of,
    choose,
    plan,
    twin,
)
from demo_world.experiments import LONG_S, LONGEST_S, sum_up_drift, sum_up_steady, sum_up_switches
from demo_world.filming import Batches, Filming
from demo_world.report import render
from demo_world.rows import Row, Rows, identify
from demo_world.starts import sum_up_starts
from demo_world.verdicts import inside, verdicts

WHOLE = {"clips": 504, "long": 84, "longest": 21, "modes": SWITCH_MODES}
QUICK = {"clips": 42, "long": 6, "longest": 0, "modes": ("immediate",)}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    run("demo_world.evaluate", lambda: evaluate(arguments), "stopped; the same command goes on")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m demo_world.evaluate", description="Score the demo model.")
    add = parser.add_argument
    add("--json", type=Path, required=True, help="figures; the tables go beside it as .md")
    add("--sheets", type=Path, metavar="FOLDER", help="contact sheets (default: beside the JSON)")
    add("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    add(
        "--configurations",
        nargs="+",
        metavar="NAME",
        help=f"{IN_FP8} at the end: in FP8, against the same without (default: all without)",
    )
    add("--quick", action="store_true", help="a look: --clips 42 --modes immediate --long 6 --longest 0")
    add("--clips", type=whole(1, 10_000), help="steady, and of each mode of a switch (default: 504)")
    add("--modes", nargs="+", choices=SWITCH_MODES, help="of a switch (default: all)")
    add("--long", type=whole(0, 1000), help=f"clips of {LONG_S} s (default: 84)")
    add("--longest", type=whole(0, 1000), help=f"clips of {LONGEST_S} s (default: 21)")
    add("--model", default="demo", help="a card's name or .toml file (default: demo)")
    add(
        "--checkpoint",
        metavar="FOLDER",
        help="as `demo_world.train --out` writes it (default: the model's own)",
    )
    add("--other", type=Path, metavar="JSON", help="figures of another training to compare with")
    add(
        "--processes",
        type=whole(1, 256),
        default=os.cpu_count(),
        help="of one thread (default: one per core)",
    )
    arguments = parser.parse_args(argv)
    for name, default in (QUICK if arguments.quick else WHOLE).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    return arguments


def evaluate(arguments: argparse.Namespace) -> None:
    """Film, judge and write everything. Raises CascadeError."""
    card = find_card(arguments.model)
    configurations = choose(arguments.configurations, card)
    sheets = arguments.sheets or arguments.json.with_suffix("")
    check_files(arguments.json, arguments.checkpoint)
    make_folder(sheets)
    other = read_figures(arguments.other)
    amounts = Amounts(
        arguments.only, arguments.clips, arguments.long, arguments.longest, arguments.modes, card.still_blocks
    )
    batches = {name: plan(configuration, amounts) for name, configuration in configurations.items()}
    if not any(batches.values()):
        raise InvalidConfig(
            f"--only {' '.join(arguments.only)}: there is nothing to film, see --long, --longest"
        )
    rows = Rows.open(arguments.json.with_suffix(".rows.jsonl"), identify(card, arguments.checkpoint))
    filming = Filming(arguments.model, arguments.checkpoint, arguments.processes, rows, sheets)
    asyncio.run(filming.run(configurations, batches))
    results = {
        "command": shlex.join(["python", "-m", "demo_world.evaluate", *sys.argv[1:]]),
        "machine": machine(),
        "model": card.name,
        "weights": arguments.checkpoint or "the model's own weights",
    } | sum_up(batches, rows)
    found = verdicts(results) + (inside(results, other) if other else [])
    results["verdicts"] = [str(verdict) for verdict in found]
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    tables = render(results)
    arguments.json.with_suffix(".md").write_text(tables)
    print(tables)


def sum_up(batches: Batches, rows: Rows) -> dict[str, Any]:
    """By experiment (a drift of each length is one), then by configuration and mode of a switch."""
    results: dict[str, Any] = {}
    for name, plans in batches.items():
        for batch, takes in plans.items():
            experiment, _, rest = batch.partition(" ")
            baseline, against = baseline_of(name), twin(name, batch)

            def planned(configuration: str, batch: str, count: int = len(takes)) -> dict[int, Row]:
                return {
                    number: row for number, row in rows.of(configuration, batch).items() if number < count
                }

            here, there = planned(name, batch), planned(baseline, against) if baseline else {}
            match experiment:
                case "steady":
                    results.setdefault("steady", {})[name] = sum_up_steady(here, there)
                case "switch":
                    results.setdefault("switch", {})[f"{name} {rest}"] = sum_up_switches(here, there)
                case "start":
                    results.setdefault(batch, {})[name] = sum_up_starts(here, there)
                case "drift":
                    results.setdefault(batch, {})[name] = sum_up_drift(here, there)
    return results


def make_folder(sheets: Path) -> None:
    try:
        sheets.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfig(f"--sheets {sheets}: cannot be made: {error.strerror}") from None


def read_figures(path: Path | None) -> Mapping[str, Any]:
    """Of an earlier evaluation; empty where none is named."""
    if path is None:
        return {}
    try:
        return cast(Mapping[str, Any], json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"--other {path}: {error}") from None


if __name__ == "__main__":
    main()
