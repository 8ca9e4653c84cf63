"""What a pass asks of a GPU, counted on any machine: kernels, casts, bytes, operations, memory, waits.

python -m benchmarks.trace [--models MODEL ...] [--ranks W ...]    now, beside what is committed
python -m benchmarks.trace --write    renew benchmarks/results/trace.* and cascade_core/planning/traces.json

The rank's own code runs at the model's own size on tensors that have a device and no data
(`fake_cuda.py`); the other ranks are PyTorch's fake process group. Nothing is timed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.trace.cases import Case, Row, budget, rows, trace
from benchmarks.trace.compiled import spared
from benchmarks.trace.decoders import decoder_rows
from benchmarks.trace.table import render
from cascade_core.config import InflightAttention, ModelCard, Quantize, WindowConfig, find_card

MODELS = (
    "self-forcing-1.3b",
    "longlive-1.3b",
    "longlive-2.0-5b",
    "krea-14b",
    WIDE_14B := "krea-14b, window 21",
    "demo",
)
QUANTIZED: tuple[Quantize, ...] = ("none", "fp8")
ATTENTIONS: tuple[InflightAttention, ...] = ("bidirectional", "causal")
RESULTS = Path("benchmarks/results")
PLANNER = Path("cascade_core/planning/traces.json")


def card_of(model: str) -> ModelCard:
    """The card; or the dimensions of 14B at the window that others of its size have."""
    if model != WIDE_14B:
        return find_card(model)
    return replace(find_card("krea-14b"), window=WindowConfig(window_frames=21, rope="window"))


def sequential(model: str, quantize: Quantize = "none") -> Case:
    card = card_of(model)
    return Case(model, card, 1, card.sampling.num_passes, "bidirectional", quantize=quantize)


def cases(models: Sequence[str], ranks: Sequence[int]) -> Iterator[Case]:
    """Each model block by block on one rank, and as a full cascade on each number of ranks; block by block
    and on five ranks with its products in FP8, too."""
    for model in models:
        card = card_of(model)
        if 1 in ranks:
            yield sequential(model)
            yield sequential(model, "fp8")
        for num_ranks in ranks:
            for attention in ATTENTIONS:
                yield Case(model, card, num_ranks, 1, attention)
        if 5 in ranks:
            yield Case(model, card, 5, 1, "bidirectional", counts_behind=True)
            yield Case(model, card, 5, 1, "bidirectional", quantize="fp8")


def measure(models: Sequence[str], ranks: Sequence[int]) -> Row:
    """All cases, and what they were traced with."""
    traced, found = commit(), []
    for case in cases(models, ranks):
        print(*case.about.values(), sep=", ", file=sys.stderr)
        ticks = trace(case)
        found.append(case.about | {"budget": budget(ticks, case), "ticks": rows(ticks)})
    return {
        "commit": traced,
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "cases": found,
        "compiling_spares": [spared(sequential(model, how)) for model in models for how in QUANTIZED],
        "decoders": decoder_rows(),
    }


def commit() -> str:
    """The last that changed what is traced; `+` where there are changes that are not committed."""
    what = ["--", "cascade_core", f":!{PLANNER}"]

    def git(*arguments: str) -> str:
        call = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=30)
        return call.stdout.strip()

    return git("log", "-1", "--format=%h", *what) + "+" * bool(git("status", "--porcelain", *what))


def read(folder: Path) -> dict[str, Any]:
    """Traces by label, `before` first."""
    path = folder / "trace.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write(traces: dict[str, Any], folder: Path, planner: Path) -> None:
    (folder / "trace.json").write_text(json.dumps(traces, indent=1) + "\n")
    (folder / "trace.md").write_text(render(traces))
    planner.parent.mkdir(exist_ok=True)
    planner.write_text(json.dumps(traces.get("now") or traces["before"], indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trace", description="Count what a pass takes."
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    parser.add_argument("--ranks", nargs="+", type=int, default=(1, 2, 3, 4, 5), metavar="W")
    parser.add_argument(
        "--write", action="store_true", help="renew the committed tables; all models and ranks"
    )
    parser.add_argument(
        "--label", default="now", help="in the tables: `before` is what others are compared to"
    )
    options = parser.parse_args(arguments)
    if options.write and (options.models, options.ranks) != (MODELS, (1, 2, 3, 4, 5)):
        parser.error("--write takes all models and ranks")
    traces = read(RESULTS)
    traces[options.label] = measure(options.models, options.ranks)
    if options.write:
        write(traces, RESULTS, PLANNER)
    print(render(traces, options.label))
    return 0


if __name__ == "__main__":
    sys.exit(main())
