"""One rank of a model in its steady state: what each of its ticks takes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.trace.counts import Counter, Counts
from benchmarks.trace.fake_cuda import CUDA, fake_cuda
from cascade_core.attention.exchange import Exchange, GroupExchange, SoloExchange
from cascade_core.config import InflightAttention, ModelCard
from cascade_core.ranks.loading import build_model
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Shape, Timeline, Work, context_blocks, plan_tick

Row = dict[str, Any]

FEW_LAYERS = 2
"""All layers launch the same, so what the second of them adds, the others add as well; a test counts all."""
FIGURES = (
    "kernels",
    "casts",
    "elementwise_bytes",
    "matmul_flop",
    "attention_flop",
    "collectives",
    "gathered_bytes",
)


@dataclass(frozen=True)
class Case:
    """What is traced."""

    model: str
    card: ModelCard
    num_ranks: int
    stagger: int
    attention: InflightAttention

    @property
    def shape(self) -> Shape:
        num_passes, window = self.card.sampling.num_passes, self.card.window
        return Shape(num_passes, self.stagger, self.num_ranks, window, self.attention)


class Session:
    """One session on rank 0, whose window is full from the start."""

    def __init__(self, runner: Runner) -> None:
        card, shape = runner.card, runner.shape
        height, width = card.video.height, card.video.width
        next_block = shape.window.sink_blocks + shape.window.window_blocks
        next_block += -next_block % shape.num_ranks
        blocks = context_blocks(shape.window, next_block)
        context = {block: torch.zeros(card.latent_shape(height, width)) for block in blocks}
        runner.open(0, 0, height, width, context)
        runner.add_prompt(0, 0, torch.zeros(1, card.transformer.text_dim))
        primed = tuple(Work(block, shape.context_pass, 0) for block in blocks)
        self.runner = runner
        self.timeline = Timeline(0, next_block=next_block, to_prime=primed)

    def tick(self) -> tuple[Work, ...]:
        """Run the next one; returns what rank 0 did in it."""
        plan, self.timeline = plan_tick(self.timeline, self.runner.shape)
        assert plan is not None, "the session is endless"
        self.runner.tick(plan)
        return plan.ranks[self.runner.rank]


def trace(case: Case) -> list[Row]:
    """A row for each kind of tick that rank 0 has: means over a whole turn of the cache's ring."""
    num_layers = case.card.transformer.num_layers
    few, more = (count_ticks(case, count) for count in (FEW_LAYERS - 1, FEW_LAYERS))
    return [
        {"passes": passes}
        | mean([extend(*both, num_layers) for both in zip(few[passes], ticks, strict=True)])
        for passes, ticks in sorted(more.items())
    ]


def extend(few: Counts, more: Counts, num_layers: int) -> Counts:
    """The counts of so many layers from those of two adjacent small numbers of them."""
    times = num_layers - FEW_LAYERS
    figures = {
        name: getattr(more, name) + times * (getattr(more, name) - getattr(few, name))
        for name in (*FIGURES, "peak_bytes")
    }
    return Counts(**figures, waits=more.waits)


def count_ticks(case: Case, num_layers: int) -> dict[tuple[int, ...], list[Counts]]:
    """The ticks of rank 0 in its steady state, by the passes that it makes in them, oldest block first."""
    card = replace(case.card, transformer=replace(case.card.transformer, num_layers=num_layers))
    counted: dict[tuple[int, ...], list[Counts]] = {}
    with counting_cuda() as counter, group(case.num_ranks) as exchange:
        model = build_model(card, None, 0, CUDA, torch.bfloat16)
        session = Session(Runner(model, card, case.shape, 0, exchange))
        for _ in range(1 + case.shape.num_passes):
            session.tick()  # prime, then fill the pipeline
        for _ in range(num_ticks(case.shape)):
            with counter.counting() as counts:
                works = session.tick()
            counted.setdefault(tuple(work.pass_index for work in works), []).append(counts)
    return counted


def num_ticks(shape: Shape) -> int:
    """After so many, rank 0 and its ring are where they were."""
    return shape.stagger * math.lcm(max(1, shape.window.window_blocks - 1), shape.num_ranks)


def mean(counts: Sequence[Counts]) -> Row:
    """Of ticks that do the same at different places of the ring; the memory is the most of them."""
    means: Row = {name: sum(getattr(each, name) for each in counts) / len(counts) for name in FIGURES}
    return {name: round(value, 1) for name, value in means.items()} | {
        "peak_bytes": max(each.peak_bytes for each in counts),
        "waits": max(len(each.waits) for each in counts),
        "waits_at": sorted({wait for each in counts for wait in each.waits}),
    }


@contextmanager
def counting_cuda() -> Iterator[Counter]:
    """A CUDA device that is not there, and what counts on it."""
    counter = Counter()
    with fake_cuda(counter.on_wait), counter:
        yield counter


@contextmanager
def group(num_ranks: int) -> Iterator[Exchange]:
    """The exchange of rank 0 as the engine has it, whose peers PyTorch pretends."""
    if num_ranks == 1:
        yield SoloExchange()
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        yield GroupExchange(num_ranks)
    finally:
        dist.destroy_process_group()
