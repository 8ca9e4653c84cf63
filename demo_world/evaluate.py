"""`python -m demo_world.evaluate`: is the cascade as good as sequential generation? Scored, with intervals.

Every configuration makes the same clips (prompts and seeds), through the engine that serves users.
"""

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from cascade_core.config import (
    EngineConfig,
    ModelCard,
    find_card,
    make,
    uses_random_weights,
)
from cascade_core.errors import CascadeError, InvalidConfig, UserError
from cascade_core.machine import has_fast_bfloat16, machine
from cascade_core.media.vae import WanVaeDecoder, load_vae
from cascade_core.weights.locate import locate_part
from demo_world.clips import Clip, Take, film
from demo_world.configurations import BASELINE, Amounts, choose, engine_config, plan
from demo_world.experiments import (
    sum_up_drift,
    sum_up_steady,
    sum_up_switches,
)
from demo_world.report import captioned, render
from demo_world.sheets import contact_sheet
from demo_world.world import FPS

EXPERIMENTS = ("steady", "switch", "drift")
DRIFT_END_S = 5
"""Seconds compared at either end of a long clip."""
SHEET_ROWS = 12
SHEET_EVERY = {"steady": 4, "switch": 8, "drift": 60}
"""Pictures between two on a contact sheet."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    try:
        evaluate(arguments)
    except CascadeError as error:
        print(f"demo_world.evaluate: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print("demo_world.evaluate: stopped", file=sys.stderr)
        sys.exit(130)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m demo_world.evaluate", description="Score the demo model.")
    parser.add_argument("--prompts", type=whole(1, 10_000), default=84, help="prompts (default: 84)")
    parser.add_argument("--seeds", type=whole(1, 100), default=1, help="clips of each prompt (default: 1)")
    parser.add_argument("--json", type=Path, required=True, help="figures; the tables go beside it as .md")
    parser.add_argument("--out", type=Path, help="folder of the contact sheets (default: beside the JSON)")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--configurations", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--switches", type=whole(1, 10_000), help="switch clips (default: as --prompts)")
    parser.add_argument("--long", type=whole(1, 1000), default=8, help="long clips (default: 8)")
    parser.add_argument("--seconds", type=whole(10, 3600), default=60, help="of a long clip (default: 60)")
    parser.add_argument("--model", default="demo", help="a card's name or .toml file (default: demo)")
    parser.add_argument("--weights", help="folder, hub id, or `random` (default: the model's own)")
    return parser.parse_args(argv)


def whole(least: int, most: int) -> Callable[[str], int]:
    """An argparse type."""

    def number(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text} is not a whole number in {least}..{most}")
        return int(text)

    return number


def evaluate(arguments: argparse.Namespace) -> None:
    """Film, judge and write everything. Raises CascadeError."""
    card = find_card(arguments.model)
    configurations = choose(arguments.configurations, card)
    sheets = arguments.out or arguments.json.with_suffix("")
    check_folders(arguments.json, sheets)
    batches = {name: plan(name, amounts(arguments)) for name in configurations}
    if not any(batches.values()):
        raise InvalidConfig(f"--only: of {', '.join(configurations)} none runs {', '.join(arguments.only)}")
    decoder = open_decoder(card, arguments.weights)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "demo_world.evaluate", *sys.argv[1:]]),
        "machine": machine(),
        "model": card.name,
        "weights": arguments.weights or "the model's own weights",
    }
    baseline: list[Clip] | None = None
    with tqdm(total=count_blocks(batches), unit="block", file=sys.stderr) as bar:
        for name in filter(batches.get, configurations):
            bar.set_description(name)
            config = engine_config(arguments.model, arguments.weights, configurations[name])
            clips = asyncio.run(film(config, decoder, batches[name], SHEET_ROWS, bar.update))
            add_results(results, name, clips, baseline, arguments.seconds)
            write_sheets(sheets, name, clips)
            if name == BASELINE:
                baseline = clips.get("steady")
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    tables = render(results)
    arguments.json.with_suffix(".md").write_text(tables)
    print(tables)


def amounts(arguments: argparse.Namespace) -> Amounts:
    return Amounts(
        experiments=arguments.only,
        num_prompts=arguments.prompts,
        num_seeds=arguments.seeds,
        num_switches=arguments.switches or arguments.prompts,
        num_long=arguments.long,
        long_s=arguments.seconds,
    )


def count_blocks(batches: Mapping[str, Mapping[str, Sequence[Take]]]) -> int:
    return sum(take.num_blocks for plans in batches.values() for takes in plans.values() for take in takes)


def write_sheets(folder: Path, name: str, clips: Mapping[str, Sequence[Clip]]) -> None:
    for batch, made in clips.items():
        every = SHEET_EVERY[batch.partition(" ")[0]]
        path = folder / f"{name} {batch}.png".replace(" ", "-")
        contact_sheet(captioned(made), path, every, f"{name}, {batch}")


def add_results(
    results: dict[str, Any],
    name: str,
    clips: Mapping[str, Sequence[Clip]],
    baseline: Sequence[Clip] | None,
    seconds: int,
) -> None:
    for batch, made in clips.items():
        experiment, _, mode = batch.partition(" ")
        runs = results.setdefault(experiment, {})
        match experiment:
            case "steady":
                runs[name] = sum_up_steady(made, baseline)
            case "switch":
                runs[f"{name} {mode}"] = sum_up_switches(made)
            case "drift":
                runs[name] = sum_up_drift(made, DRIFT_END_S * FPS) | {"seconds": seconds}


def open_decoder(card: ModelCard, weights: str | None) -> WanVaeDecoder:
    """The card's VAE on the CPU. Raises WeightsError."""
    torch.set_num_threads(1)
    config = make(EngineConfig, {"model": card.name, "weights": weights})
    path = None if uses_random_weights(config, card) else locate_part(card, weights, "vae")
    dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32  # as the product decodes
    return load_vae(card, path, torch.device("cpu"), dtype)


def check_folders(figures: Path, sheets: Path) -> None:
    """Fail before minutes of work, not after."""
    if figures.suffix != ".json":
        raise InvalidConfig(f"--json {figures}: the name must end in .json")
    if not figures.parent.is_dir():
        raise InvalidConfig(f"--json {figures}: the folder {figures.parent} does not exist")
    try:
        sheets.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfig(f"--out {sheets}: cannot be made: {error.strerror}") from None


if __name__ == "__main__":
    main()
