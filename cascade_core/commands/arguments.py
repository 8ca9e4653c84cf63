"""What commands take. No torch, so that those that compute nothing need not wait for it."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from cascade_core.config import Quantize

TITLES = {
    "speedup": "Cascade over sequential, `bench` card, one thread per rank",
    "first_block": "Time to the first clean block, `bench` card",
    "switch": "Cost of a prompt switch, `demo` card, stagger 1, one thread",
    "window": "Tick time and KV cache against window length, `demo` card, stagger 1, one thread",
    "length": "Tick time and memory along one session, `demo` card, stagger 1, one thread, `rope = window`",
}


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    parser.add_argument("--model", default="bench", help="card of the speed-up table (default: bench)")
    parser.add_argument(
        "--blocks", type=at_least(1), default=12, help="measured blocks a configuration (default: 12)"
    )
    add_quantize(parser)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=TITLES,
        default=list(TITLES),
        metavar="TABLE",
        help=f"tables to measure: {', '.join(TITLES)} (default: all)",
    )
    parser.add_argument(
        "--frames", type=at_least(3), default=10_000, help="latent frames of the long session"
    )


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Of all that measure or generate."""
    parser.add_argument(
        "--quantize", choices=get_args(Quantize), default="none", metavar="HOW",
        help="none (default), or fp8: the layers' matrix products in FP8",
    )  # fmt: skip


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `minimum`."""

    def whole_number(text: str) -> int:
        if not (text.isdecimal() and int(text) >= minimum):
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {minimum}")
        return int(text)

    return whole_number
