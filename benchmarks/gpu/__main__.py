"""One CUDA device: what a pass costs, what one rank of a full cascade does at every tick, and what is around.

python -m benchmarks.gpu [--models self-forcing-1.3b krea-14b] [--out FOLDER] [--passes N] [--compile]

Random weights at the card's size: speed does not depend on them. Sequential figures are measured. Those of
the cascade are a projection from one measured rank: the other ranks' keys and values are copied in on the
same GPU instead of arriving by NVLink. What that assumes stands beside the figures. Tables are written after
each measurement, so that a late failure loses little.
"""

import argparse
import asyncio
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import torch

from benchmarks.folders import need_folder
from benchmarks.gpu.cases import GIB, Case, Window, fits, make_cases, needed_bytes, tiny_cases
from benchmarks.gpu.decoders import measure_decoders
from benchmarks.gpu.device import hardware, measure_ceilings, measure_kernels
from benchmarks.gpu.modes import Mode, build, measure_case
from benchmarks.gpu.projection import ASSUMPTIONS
from benchmarks.gpu.report import TITLES, render, write
from benchmarks.gpu.samples import Row
from benchmarks.gpu.whole_engine import engine_setups, measure_engine
from benchmarks.gpu.worker import measure_worker
from cascade_core.commands.arguments import add_quantize, at_least

TABLES = ("models", *TITLES)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measure one CUDA device.")
    parser.add_argument("--models", nargs="+", default=["self-forcing-1.3b", "krea-14b"], metavar="MODEL")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    parser.add_argument("--name", help="of the tables' files (default: gpu, with what was asked for)")
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE", help=f"of {', '.join(TABLES)}"
    )
    parser.add_argument(
        "--modes", nargs="+", choices=get_args(Mode), default=get_args(Mode), metavar="MODE",
        help="sequential, rank (one of a full cascade), joint (a full cascade on one GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--window", choices=get_args(Window), default="both", help="the card's own, or 21 frames where longer"
    )
    parser.add_argument(
        "--passes", type=at_least(1), default=20, metavar="N", help="measured passes of each kind"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers")
    add_quantize(parser)
    parser.add_argument("--tiny", action="store_true", help="the demo card on the CPU: only tries the code")
    return parser.parse_args(arguments)


def file_name(options: argparse.Namespace) -> str:
    quantized = "" if options.quantize == "none" else f"-{options.quantize}"
    return str(options.name or "gpu" + "-compiled" * options.compile + quantized + "-tiny" * options.tiny)


def measure(options: argparse.Namespace, results: Row, device: torch.device) -> Iterator[None]:
    """Yields after each addition to `results`."""
    cases = tiny_cases() if options.tiny else make_cases(options.models, options.window)
    cards = {case.card.transformer.num_heads: case.card for case in reversed(cases)}
    if "models" in options.only:
        for case in cases:
            yield from add_case(case, options, results, device)
    tables: dict[str, Callable[[], list[Row]]] = {
        "kernels": lambda: [
            row for card in cards.values() for row in measure_kernels(card, device, options.passes)
        ],
        "ceilings": lambda: [measure_ceilings(device, options.passes)],
        "decoders": lambda: measure_decoders(cases[0].card, device, options.passes),
        "worker": lambda: measure_worker(cases[0].card, device, options.passes),
    }
    for name, table in tables.items():
        if name in options.only:
            results[name] = table()
            yield
    if "engine" in options.only:
        model = "demo" if options.tiny else options.models[0]
        for setup in engine_setups(cases[0].card.sampling.num_passes, torch.cuda.device_count()):
            row = asyncio.run(measure_engine(model, device, setup, options.passes, options.quantize))
            results["engine"].append(row)
            yield


def add_case(case: Case, options: argparse.Namespace, results: Row, device: torch.device) -> Iterator[None]:
    if not fits(case.card, device, options.quantize):
        needed = needed_bytes(case.card, options.quantize) / GIB
        results["left_out"].append(f"{case.name}: needs {needed:.0f} GiB for weights and one session")
        return
    model = build(case, device, options.compile, options.quantize)
    for number, row in enumerate(measure_case(case, model, options.modes, options.passes)):
        results["cases"][len(results["cases"]) - bool(number) :] = [row]
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    need_folder(options.out)
    if not options.tiny and not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device here (--tiny tries the code)", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.tiny else "cuda:0")
    words = sys.argv[1:] if arguments is None else arguments
    results: Row = {
        "command": "python -m benchmarks.gpu " + shlex.join(words),
        "machine": hardware(device),
        "repeats": options.passes,
        "cases": [],
        "assumptions": list(ASSUMPTIONS),
        "left_out": [],
    } | {name: [] for name in TITLES}
    write(results, options.out, file_name(options))
    for _ in measure(options, results, device):
        write(results, options.out, file_name(options))
    print(render(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
