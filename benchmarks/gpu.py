"""One CUDA device: what a pass costs, and what one rank of a full cascade does at every tick.

python -m benchmarks.gpu [--models self-forcing-1.3b krea-14b] [--out FOLDER] [--passes N] [--compile]

Random weights at the card's size: speed does not depend on them. Sequential figures are measured. Those of
the cascade are a projection from one measured rank: the other ranks' keys and values are copied in on the
same GPU instead of arriving by NVLink. What that assumes stands beside the figures.
"""

import argparse
import gc
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.clock import Clock, stopwatch
from benchmarks.emulated import EmulatedExchange
from benchmarks.folders import need_folder
from cascade_core.attention.attention import kernels
from cascade_core.attention.exchange import Exchange, SoloExchange
from cascade_core.attention.joint_attention import JointAttention, Reader
from cascade_core.commands.bench import table
from cascade_core.config import InflightAttention, ModelCard, find_card
from cascade_core.machine import machine
from cascade_core.model.model import CausalWanModel
from cascade_core.ranks.loading import build_model, compile_layer
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import (
    Shape,
    TickPlan,
    Timeline,
    Work,
    context_blocks,
    plan_tick,
    visible_in_flight,
    window_start,
)

Row = dict[str, Any]
GIB = 2**30
ATTENTION: InflightAttention = "bidirectional"
TRAINED_WINDOW_FRAMES = 21
NVLINK_GB_S = 450.0
"""What one GPU can receive over the NVLink of an H100 or H200 (900 GB/s, both ways together)."""
MEMORY_SHARE = 0.85
"""Part of the free memory that weights and caches may take; the rest is for activations."""

ASSUMPTIONS = (
    "FPS counts 12 frames per block; text encoder and VAE are not in it, as in the paper.",
    "A tick is queued while the one before runs, as the worker does.",
    "Cascade FPS is projected, not measured: one rank of {ranks} ran here, with {ranks} blocks in flight, "
    "one per rank. All ranks advance together, so the slowest position in flight sets the tick.",
    "The other ranks' K/V were copied within this GPU on a stream of its own: the memory traffic of the "
    "gather is in the figure; NCCL's launches, its use of multiprocessors and uneven ranks are not.",
    f"NVLink is taken as {NVLINK_GB_S:.0f} GB/s into each GPU. A gather longer than the attention to the "
    "clean cache that it runs beside adds the difference to the tick (`exposed_ms`); `gb_s_to_hide_it` is "
    "what the position with the least clean cache needs for none.",
)


# One session in its steady state.


class SteadySession:
    """A session on rank 0 that begins with a full window: primed with random latents."""

    def __init__(self, card: ModelCard, runner: Runner) -> None:
        self.runner = runner
        window, shape = runner.shape.window, runner.shape
        first = window.sink_blocks + window.window_blocks
        blocks = context_blocks(window, first)
        height, width = card.video.height, card.video.width
        context = {block: torch.randn(card.latent_shape(height, width)) for block in blocks}
        runner.open(0, 0, height, width, context)
        dims = card.transformer
        runner.add_prompt(0, 0, torch.randn(dims.text_len, dims.text_dim))
        primed = tuple(Work(block, shape.context_pass, 0) for block in blocks)
        self._timeline = Timeline(0, next_block=first, to_prime=primed)
        for _ in range(1 + shape.num_passes):
            self.tick(self.plan())  # prime, then fill the pipeline

    def plan(self) -> TickPlan:
        plan, self._timeline = plan_tick(self._timeline, self.runner.shape)
        assert plan is not None, "the session is endless"
        return plan

    def tick(self, plan: TickPlan) -> None:
        self.runner.tick(plan)

    def seen(self, plan: TickPlan) -> tuple[Work, int, int]:
        """Rank 0's work in this tick, and how many clean blocks and blocks in flight it attends to."""
        (work,) = plan.ranks[0]
        shape = self.runner.shape
        sink, window = self.runner.sessions[0].cache.visible(window_start(work, shape))
        in_flight = visible_in_flight(work, plan.works, shape, ATTENTION)
        return work, len(sink) + len(window), len(in_flight)


@dataclass(frozen=True)
class Sample:
    """One tick of rank 0."""

    pass_index: int
    clean_blocks: int
    in_flight_blocks: int
    tick_ms: float
    attention_ms: float
    """Self-attention with its merges, and waiting for the gather, within the tick."""
    clean_ms: float
    """The part of it on the clean cache, which a gather can hide behind."""


def sample_ticks(session: SteadySession, repeats: int, name: str) -> list[Sample]:
    """`repeats` ticks of every pass, after one round to warm up."""
    num_passes = session.runner.shape.num_passes
    clock = Clock(session.runner.model.device)
    ticks = tqdm(range((1 + repeats) * num_passes), desc=name, unit="tick", file=sys.stderr)
    queued = [queue_tick(session, clock) for _ in ticks]
    clock.finish()
    return [sample() for sample in queued[num_passes:]]


def queue_tick(session: SteadySession, clock: Clock) -> Callable[[], Sample]:
    """Gives its sample once the device is done."""
    plan = session.plan()
    work, clean_blocks, in_flight_blocks = session.seen(plan)
    with (
        stopwatch(clock, JointAttention, "__call__") as attention,
        stopwatch(clock, Reader, "attend_clean") as clean,
    ):
        start = clock.mark()
        session.tick(plan)
        end = clock.mark()

    def sample() -> Sample:
        return Sample(
            work.pass_index,
            clean_blocks,
            in_flight_blocks,
            clock.ms(start, end),
            sum(clock.ms(*marks) for marks in attention),
            sum(clock.ms(*marks) for marks in clean),
        )

    return sample


def pass_flops(card: ModelCard, num_blocks_seen: int) -> float:
    """Floating-point operations of one pass of one block: matrix products and attention."""
    dims = card.transformer
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    linear = 6 * dims.dim**2 + 2 * dims.dim * dims.ffn_dim  # q k v o, text q o, feed-forward
    keys = num_blocks_seen * tokens + dims.text_len
    return dims.num_layers * tokens * (2.0 * linear + 4.0 * keys * dims.dim)


def summarize(card: ModelCard, samples: Sequence[Sample]) -> list[Row]:
    """Per pass: medians in ms, the 95th percentile, and the rate."""
    rows: list[Row] = []
    for index in sorted({sample.pass_index for sample in samples}):
        mine = [sample for sample in samples if sample.pass_index == index]
        first = mine[0]
        tick_ms = statistics.median(sample.tick_ms for sample in mine)
        attention_ms = statistics.median(sample.attention_ms for sample in mine)
        flops = pass_flops(card, first.clean_blocks + first.in_flight_blocks)
        rows.append(
            {
                "pass": "context" if index == card.sampling.num_passes - 1 else f"denoise {index + 1}",
                "clean_blocks": first.clean_blocks,
                "in_flight_blocks": first.in_flight_blocks,
                "tick_ms": tick_ms,
                "p95_ms": percentile([sample.tick_ms for sample in mine], 95),
                "attention_ms": attention_ms,
                "rest_ms": tick_ms - attention_ms,
                "clean_ms": statistics.median(sample.clean_ms for sample in mine),
                "tflop": flops / 1e12,
                "tflop_s": flops / 1e9 / tick_ms,
            }
        )
    return rows


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` % of the values do not exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


# One model at one window.


@dataclass(frozen=True)
class Case:
    """What is measured together: a ratio means something only within one run."""

    name: str
    card: ModelCard


def make_cases(models: Sequence[str]) -> list[Case]:
    """Each card at its own window; where that is shorter than 21 frames, at 21 as well."""
    cases: list[Case] = []
    for model in models:
        card = find_card(model)
        cases.append(Case(f"{model}, window {card.window.window_frames}", card))
        if card.window.window_frames < TRAINED_WINDOW_FRAMES:
            wide = replace(
                card.window, window_frames=TRAINED_WINDOW_FRAMES, sink_frames=0, context_window_frames=None
            )
            cases.append(Case(f"{model} dims, window {TRAINED_WINDOW_FRAMES}", replace(card, window=wide)))
    return cases


def tiny_cases() -> list[Case]:
    card = find_card("demo")
    return [Case("demo, tiny", replace(card, video=replace(card.video, width=32, height=32)))]


def needed_bytes(card: ModelCard) -> float:
    """Weights and one session, in bfloat16."""
    with torch.device("meta"):
        model = CausalWanModel(card.transformer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return 2 * parameters + card.session_bytes(card.video.height, card.video.width)


def fits(card: ModelCard, device: torch.device) -> bool:
    """Whether the device has the memory; gives back what earlier cases left in the allocator."""
    if device.type != "cuda":
        return True
    gc.collect()  # compiled layers refer to themselves
    torch.cuda.empty_cache()
    return needed_bytes(card) <= MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]


def measure_case(case: Case, device: torch.device, repeats: int, compiled: bool) -> Row:
    """Sequential pipeline and one rank of the full cascade, on the same weights."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = build_model(case.card, None, 0, device, dtype)
    if compiled:
        torch.compiler.reset()  # or the forms of earlier cases count towards the limit
        for layer in model.layers:
            compile_layer(layer)
    num_passes = case.card.sampling.num_passes
    passes, sequential_bytes = measure_rank(
        case, model, Shape(num_passes, num_passes, 1, case.card.window), SoloExchange(), repeats, "sequential"
    )
    ranks = Shape(num_passes, 1, num_passes, case.card.window)
    positions, cascade_bytes = measure_rank(
        case, model, ranks, EmulatedExchange(num_passes, 0, device), repeats, f"1 of {num_passes} ranks"
    )
    return {
        "name": case.name,
        "kernel": next(iter(kernels(device.type, dtype))),
        "peak_gib": {"sequential": sequential_bytes / GIB, "cascade": cascade_bytes / GIB},
        "summary": project(case.card, passes, positions, dtype.itemsize),
        "sequential": passes,
        "cascade": positions,
    }


def measure_rank(
    case: Case, model: CausalWanModel, shape: Shape, exchange: Exchange, repeats: int, name: str
) -> tuple[list[Row], int]:
    """Rows by pass, and the peak memory in bytes (0 on the CPU)."""
    on_cuda = model.device.type == "cuda"
    session = SteadySession(case.card, Runner(model, case.card, shape, 0, exchange))
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()  # priming took more: a whole window in one tick
    rows = summarize(case.card, sample_ticks(session, repeats, f"{case.name}, {name}"))
    return rows, torch.cuda.max_memory_allocated() if on_cuda else 0


def gathered_bytes(card: ModelCard, itemsize: int) -> int:
    """Bytes of K/V that a rank receives in a tick of the full cascade, one block per rank."""
    dims, num_ranks = card.transformer, card.sampling.num_passes
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    return 2 * dims.num_layers * (num_ranks - 1) * tokens * dims.dim * itemsize


def project(card: ModelCard, passes: list[Row], positions: list[Row], itemsize: int) -> Row:
    """FPS of both, and what the network must do; adds `exposed_ms` to each position of the cascade."""
    received = gathered_bytes(card, itemsize)
    for row in positions:
        row["exposed_ms"] = max(0.0, received / NVLINK_GB_S / 1e6 - row["clean_ms"])
    sequential_ms = sum(row["tick_ms"] for row in passes)
    cascade_ms = max(row["tick_ms"] + row["exposed_ms"] for row in positions)
    num_ranks = card.sampling.num_passes
    frames = card.num_frames(1)
    return {
        "sequential_fps": 1e3 * frames / sequential_ms,
        "slowest_tick_ms": cascade_ms,
        "projected_ranks": num_ranks,
        "projected_fps": 1e3 * frames / cascade_ms,
        "ratio": sequential_ms / cascade_ms,
        "ceiling": float(num_ranks),
        "gathered_gb_per_tick": received / 1e9,
        "gb_s_to_hide_it": max(received / 1e6 / row["clean_ms"] for row in positions),
    }


# The device alone.


def measure_kernels(card: ModelCard, device: torch.device, repeats: int) -> list[Row]:
    """One block's queries over a whole window of keys, by every attention kernel there is."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    heads = card.transformer.num_heads, card.transformer.head_dim
    num_keys = tokens * TRAINED_WINDOW_FRAMES // card.window.block_frames
    query = torch.randn(tokens, *heads, device=device, dtype=dtype)
    key, value = torch.randn(2, num_keys, *heads, device=device, dtype=dtype)
    rows: list[Row] = []
    for name, kernel in kernels(device.type, dtype).items():
        with torch.inference_mode():
            ms = Clock(device).repeat(partial(kernel, query, key, value), repeats)
        flops = 4.0 * tokens * num_keys * card.transformer.dim
        rows.append(
            {"kernel": name, "heads": heads[0], "queries": tokens, "keys": num_keys}
            | {"ms": ms, "tflop_s": flops / 1e9 / ms}
        )
    return rows


def measure_ceilings(device: torch.device, repeats: int) -> Row:
    """What this device reaches: a large matrix product, and a large copy (bytes read and written)."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (256, torch.float32)
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    source = torch.randn(size, 32 * size, device=device, dtype=dtype)
    target = torch.empty_like(source)
    clock = Clock(device)
    matmul_ms = clock.repeat(lambda: left @ right, repeats)
    copy_ms = clock.repeat(lambda: target.copy_(source), repeats)
    return {
        "matmul_tflop_s": 2.0 * size**3 / 1e9 / matmul_ms,
        "copy_gb_s": 2.0 * source.numel() * dtype.itemsize / 1e6 / copy_ms,
    }


def hardware(device: torch.device) -> Row:
    """The machine and its GPU."""
    if device.type != "cuda":
        return machine() | {"gpu": "no GPU", "driver": "none"}
    properties = torch.cuda.get_device_properties(device)
    return machine() | {
        "gpu": properties.name,
        "gpu_gib": properties.total_memory / GIB,
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


# Tables.


def render(results: Row) -> str:
    """Markdown of everything measured."""
    info = results["machine"]
    parts = [
        "# Engine on one GPU",
        f"`{results['command']}` · {info['gpu']}, driver {info['driver']} · torch {info['torch']} · "
        f"{info['date']} · random weights, medians of {results['repeats']}",
    ]
    if results["cases"]:
        rows = [{"model": case["name"]} | case["summary"] for case in results["cases"]]
        notes = [f"- {note}" for note in results["assumptions"]]
        parts += ["## Sequential, and the projected cascade", table(rows), "\n".join(notes)]
    for case in results["cases"]:
        memory = ", ".join(f"{name} {gib:.1f} GiB" for name, gib in case["peak_gib"].items())
        parts += [
            f"## {case['name']}",
            f"Attention kernel: {case['kernel']}. Peak memory: {memory}.",
            "Sequential, one block at a time:",
            table(case["sequential"]),
            "One rank of the full cascade, by the position of its block in flight:",
            table(case["cascade"]),
        ]
    parts += ["## Attention kernels alone", table(results["kernels"])]
    parts += ["## Ceilings of this device", table([results["ceilings"]])]
    parts += [f"Left out: {line}" for line in results["left_out"]]
    return "\n\n".join(parts) + "\n"


def write(results: Row, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / f"{name}.md").write_text(render(results))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measure one CUDA device.")
    parser.add_argument("--models", nargs="+", default=["self-forcing-1.3b", "krea-14b"], metavar="MODEL")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    parser.add_argument("--passes", type=int, default=20, metavar="N", help="measured passes of each kind")
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers")
    parser.add_argument("--tiny", action="store_true", help="the demo card on the CPU: only tries the code")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure case by case and write after each, so that a late failure loses little."""
    options = parse_arguments(arguments)
    need_folder(options.out)
    if not options.tiny and not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device here (--tiny tries the code)", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.tiny else "cuda:0")
    cases = tiny_cases() if options.tiny else make_cases(options.models)
    name = "gpu" + "-compiled" * options.compile + "-tiny" * options.tiny
    num_ranks = max(case.card.sampling.num_passes for case in cases)
    results: Row = {
        "command": "python -m benchmarks.gpu " + shlex.join(sys.argv[1:] if arguments is None else arguments),
        "machine": hardware(device),
        "repeats": options.passes,
        "ceilings": measure_ceilings(device, options.passes),
        "kernels": [],
        "cases": [],
        "assumptions": [note.format(ranks=num_ranks) for note in ASSUMPTIONS],
        "left_out": [],
    }
    for case in cases:
        if not fits(case.card, device):
            needed = needed_bytes(case.card) / GIB
            results["left_out"].append(f"{case.name}: needs {needed:.0f} GiB for weights and one session")
            continue
        if all(row["heads"] != case.card.transformer.num_heads for row in results["kernels"]):
            results["kernels"] += measure_kernels(case.card, device, options.passes)
        results["cases"].append(measure_case(case, device, options.passes, options.compile))
        write(results, options.out, name)
    write(results, options.out, name)
    print((options.out / f"{name}.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
