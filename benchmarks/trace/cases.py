"""One rank of a model in its steady state: what each of its ticks takes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.trace.counts import Counter, Counts
from benchmarks.trace.fake_cuda import CUDA, HOPPER, fake_cuda
from cascade_core.attention.exchange import Exchange, GroupExchange, SoloExchange
from cascade_core.config import InflightAttention, ModelCard, Quantize
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


BUDGETED = ("kernels", "casts", "elementwise_bytes")


@dataclass(frozen=True)
class Case:
    """What is traced."""

    model: str
    card: ModelCard
    num_ranks: int
    stagger: int
    attention: InflightAttention
    counts_behind: bool = False
    """As `Shape.counts_behind`."""
    quantize: Quantize = "none"
    """As EngineConfig's."""

    @property
    def about(self) -> Row:
        """What tells it from others."""
        return {
            "model": self.model,
            "num_ranks": self.num_ranks,
            "stagger": self.stagger,
            "inflight_attention": self.attention,
            "window_counts_behind": self.counts_behind,
            "quantize": self.quantize,
        }

    @property
    def shape(self) -> Shape:
        sampling, window = self.card.sampling, self.card.window
        return Shape(
            sampling.num_passes,
            self.stagger,
            self.num_ranks,
            window,
            self.attention,
            counts_behind=self.counts_behind,
            num_extra_passes=sampling.num_extra_passes,
        )


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


Tick = tuple[tuple[int, ...], Counts]
"""The passes that rank 0 makes in a tick, oldest block first, and what they take."""


def trace(case: Case, limit: int | None = None, num_before: int | None = None) -> list[Tick]:
    """The first ticks of rank 0 in its steady state, or as many as `num_ticks` says; `num_before` as for
    `count_ticks`."""
    num_layers = case.card.transformer.num_layers
    few, more = (count_ticks(case, count, limit, num_before) for count in (FEW_LAYERS - 1, FEW_LAYERS))
    return [
        (passes, extend(one, counts, num_layers))
        for (_, one), (passes, counts) in zip(few, more, strict=True)
    ]


def extend(few: Counts, more: Counts, num_layers: int) -> Counts:
    """The counts of so many layers from those of two adjacent small numbers of them."""
    times = num_layers - FEW_LAYERS
    figures = {
        name: getattr(more, name) + times * (getattr(more, name) - getattr(few, name))
        for name in (*FIGURES, "peak_bytes")
    }
    return Counts(**figures, waits=more.waits)


def count_ticks(
    case: Case, num_layers: int, limit: int | None = None, num_before: int | None = None
) -> list[Tick]:
    """The same of a model with so many layers, each counted; `num_before`: ticks to get there."""
    card = replace(case.card, transformer=replace(case.card.transformer, num_layers=num_layers))
    counted: list[Tick] = []
    with counting_cuda() as counter, group(case.num_ranks) as exchange:
        model = build_model(card, None, 0, CUDA, torch.bfloat16, case.quantize)
        session = Session(Runner(model, card, case.shape, 0, exchange))
        for _ in range(num_before or 1 + case.shape.num_passes):
            session.tick()  # prime, then fill the pipeline
        for _ in range(limit or num_ticks(case.shape)):
            with counter.counting() as counts:
                works = session.tick()
            counted.append((tuple(work.pass_index for work in works), counts))
    return counted


def rows(ticks: Sequence[Tick]) -> list[Row]:
    """A row for each kind of tick: means over its places of the ring."""
    return [
        {"passes": kind} | mean([counts for passes, counts in ticks if passes == kind])
        for kind in sorted({passes for passes, _ in ticks})
    ]


def budget(ticks: Sequence[Tick], case: Case) -> Row:
    """What the first ticks, one for each pass, may take together from now on."""
    first = [counts for _, counts in ticks[: case.shape.num_passes]]
    return {name: sum(getattr(counts, name) for counts in first) for name in BUDGETED}


def num_ticks(shape: Shape) -> int:
    """Block by block a whole turn of the cache's ring; in the cascade, each kind once."""
    if shape.stagger == 1:
        return shape.num_passes
    return shape.stagger * max(1, shape.window.window_blocks - 1)


def mean(counts: Sequence[Counts]) -> Row:
    """Of ticks that do the same at different places of the ring; the memory is the most of them."""
    means: Row = {name: sum(getattr(each, name) for each in counts) / len(counts) for name in FIGURES}
    return {name: round(value, 1) for name, value in means.items()} | {
        "peak_bytes": max(each.peak_bytes for each in counts),
        "waits": max(len(each.waits) for each in counts),
        "waits_at": sorted({wait for each in counts for wait in each.waits}),
    }


@contextmanager
def counting_cuda(capability: tuple[int, int] = HOPPER) -> Iterator[Counter]:
    """A CUDA device that is not there, and what counts on it."""
    counter = Counter()
    with fake_cuda(counter.on_wait, capability), counter:
        yield counter


@contextmanager
def group(num_ranks: int, rank: int = 0) -> Iterator[Exchange]:
    """A rank's exchange as the engine has it, whose peers PyTorch pretends."""
    if num_ranks == 1:
        yield SoloExchange()
        return
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
    try:
        yield GroupExchange(num_ranks)
    finally:
        dist.destroy_process_group()
