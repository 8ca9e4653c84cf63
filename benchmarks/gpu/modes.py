"""One model in each way to run it: sequential, as one rank of the full cascade, and all of it on one GPU."""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from tqdm import tqdm

from benchmarks.clock import Clock
from benchmarks.emulated import EmulatedExchange
from benchmarks.gpu.cases import GIB, Case
from benchmarks.gpu.projection import project
from benchmarks.gpu.samples import Row, percentile, sample_ticks, summarize
from benchmarks.gpu.steady_session import SteadySession
from cascade_core.attention.attention import kernels
from cascade_core.attention.exchange import Exchange, SoloExchange
from cascade_core.config import Quantize
from cascade_core.model.model import CausalWanModel
from cascade_core.ranks.compiling import compile_layers
from cascade_core.ranks.loading import build_model
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Shape

WARM_UP = 3
"""Ticks."""
Mode = Literal["sequential", "rank", "joint"]


def build(case: Case, device: torch.device, compiled: bool, quantize: Quantize) -> CausalWanModel:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = build_model(case.card, None, 0, device, dtype, quantize)
    if compiled:
        torch.compiler.reset()  # or the forms of earlier cases count towards the limit
        video = case.card.video
        compile_layers(model, case.card.tokens_per_block(video.height, video.width))
    return model


def measure_case(case: Case, model: CausalWanModel, modes: Sequence[Mode], repeats: int) -> Iterator[Row]:
    """All that is known after each mode, on the same weights; one row that grows."""
    found: Row = {
        "name": case.name,
        "kernel": next(iter(kernels(model.device.type, model.dtype))),
        "peak_gib": {},
        "modes": {},
    }
    measures = {"sequential": measure_sequential, "rank": measure_one_rank, "joint": measure_joint}
    for mode in modes:
        found["modes"][mode] = with_peak(measures[mode], case, model, repeats, found["peak_gib"], mode)
        found |= compared(case, found["modes"], model.dtype.itemsize)
        yield found


def with_peak(
    measure: Callable[[Case, CausalWanModel, int], list[Row]],
    case: Case,
    model: CausalWanModel,
    repeats: int,
    peaks: Row,
    mode: str,
) -> list[Row]:
    """What it finds; its peak memory goes into `peaks` (0 on the CPU)."""
    rows = measure(case, model, repeats)
    on_cuda = model.device.type == "cuda"
    peaks[mode] = torch.cuda.max_memory_allocated() / GIB if on_cuda else 0.0
    return rows


def measure_sequential(case: Case, model: CausalWanModel, repeats: int) -> list[Row]:
    session = steady(case, model, stagger=case.card.sampling.num_passes)
    return summarize(case.card, sample_ticks(session, repeats, f"{case.name}, sequential"))


def measure_one_rank(case: Case, model: CausalWanModel, repeats: int) -> list[Row]:
    """One rank of as many as there are passes, by the position of its block in flight."""
    num_ranks = case.card.sampling.num_passes
    exchange = EmulatedExchange(num_ranks, 0, model.device)
    session = steady(case, model, stagger=1, num_ranks=num_ranks, exchange=exchange)
    return summarize(case.card, sample_ticks(session, repeats, f"{case.name}, 1 of {num_ranks} ranks"))


def measure_joint(case: Case, model: CausalWanModel, repeats: int) -> list[Row]:
    """Stagger 1 on one rank: every tick runs all passes at once and finishes a block."""
    session, clock = steady(case, model, stagger=1), Clock(model.device)
    marks = [clock.mark()]
    for _ in tqdm(range(WARM_UP + repeats), desc=f"{case.name}, joint", unit="tick", file=sys.stderr):
        session.tick(session.plan())
        marks.append(clock.mark())
    clock.finish()
    times = [clock.ms(*each) for each in pairwise(marks[WARM_UP:])]
    tick_ms = statistics.median(times)
    return [
        {
            "blocks_in_flight": case.card.sampling.num_passes,
            "tick_ms": tick_ms,
            "p95_ms": percentile(times, 95),
            "fps": 1e3 * case.card.num_frames(1) / tick_ms,
        }
    ]


def steady(
    case: Case, model: CausalWanModel, stagger: int, num_ranks: int = 1, exchange: Exchange | None = None
) -> SteadySession:
    shape = Shape(case.card.sampling.num_passes, stagger, num_ranks, case.card.window)
    session = SteadySession(case.card, Runner(model, case.card, shape, 0, exchange or SoloExchange()))
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # priming took more: a whole window in one tick
    return session


def compared(case: Case, modes: Row, itemsize: int) -> Row:
    """What can be said of two modes beside each other."""
    if "sequential" not in modes:
        return {}
    found: Row = {}
    if "rank" in modes:
        found["summary"] = project(case.card, modes["sequential"], modes["rank"], itemsize)
    if "joint" in modes:
        (joint,) = modes["joint"]
        joint["ratio"] = sum(row["tick_ms"] for row in modes["sequential"]) / joint["tick_ms"]
    return found
