"""One rank at a real model's size on a CUDA device that is not there, and what its session did."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.trace.cases import counting_cuda, group
from benchmarks.trace.counts import Counter, Counts
from benchmarks.trace.fake_cuda import CUDA
from cascade_core.attention.attention import Kernel
from cascade_core.config import ModelCard, SwitchMode, find_card
from cascade_core.engine.capacity import MEMORY_SHARE
from cascade_core.loras import Choice
from cascade_core.model.lora_bank import LoraBank
from cascade_core.model.low_rank import Stack, widths
from cascade_core.ranks.loading import build_model
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Shape, Timeline, Work, context_blocks
from tests.support import Drive, Switches, make_shape

CARDS = ("self-forcing-1.3b", "longlive-1.3b", "longlive-2.0-5b", "krea-14b", "demo")
SMALLEST_GPU_BYTES = 80 * 10**9
"""The least that docs/production.md and the chart's values put a 14B or 1.3B model on: an H100."""


def shallow(name: str, num_layers: int = 1) -> ModelCard:
    """The card at its own size with fewer layers: they are all alike, which `test_depth.py` shows."""
    card = find_card(name)
    return replace(card, transformer=replace(card.transformer, num_layers=num_layers))


@dataclass
class Rank:
    """A rank with its model on the device."""

    runner: Runner
    counter: Counter
    weights_bytes: int
    counts: list[Counts] = field(default_factory=list)
    """Of each tick so far."""

    def run(
        self,
        num_blocks: int,
        switches: Mapping[int, tuple[int, SwitchMode]] | None = None,
        start: int = 0,
        choices: Sequence[Choice] = (),
        has_first_frame: bool = False,
    ) -> None:
        """One session of the card's own size, primed where it begins in the middle, from open to close."""
        card, shape = self.runner.card, self.runner.shape
        latents = torch.zeros(card.latent_shape(card.video.height, card.video.width))
        context = dict.fromkeys(context_blocks(card.window, start), latents)
        primed = tuple(Work(block, shape.context_pass, 0) for block in context)
        drive = Drive.open(
            self.runner,
            height=card.video.height,
            width=card.video.width,
            timeline=Timeline(0, next_block=start, end_block=start + num_blocks, to_prime=primed),
            context=context,
            choices=choices,
            first_frame=latents[:1] if has_first_frame else None,
        )
        self.follow(drive, switches or {})
        self.held_bytes = self.counter.live_bytes - self.weights_bytes
        self.runner.close(0)

    def follow(self, drive: Drive, switches: Switches) -> None:
        while not drive.timeline.finished:
            if drive.num_ticks in switches:
                drive.switch(*switches[drive.num_ticks])
            with self.counter.counting() as counts:
                drive.tick()
            self.counts.append(counts)

    @property
    def shared_bytes(self) -> int:
        """Latents and positions of a session, which are nothing beside the keys and values of all layers."""
        card, window = self.runner.card, self.runner.shape.window
        height, width = card.video.height, card.video.width
        num_blocks = window.sink_blocks + window.window_blocks + card.sampling.num_passes
        latents = 4 * math.prod(card.latent_shape(height, width))
        positions = 8 * card.tokens_per_block(height, width) * card.transformer.head_dim
        return num_blocks * (latents + positions)

    @property
    def waits(self) -> list[str]:
        return [wait for counts in self.counts for wait in counts.waits]

    @property
    def peak_bytes(self) -> int:
        return max(counts.peak_bytes for counts in self.counts)

    @property
    def operators(self) -> set[str]:
        return {name for counts in self.counts for name in counts.by_operator}

    def check(self) -> None:
        """What holds of every session."""
        card = self.runner.card
        promised = card.session_bytes(card.video.height, card.video.width)
        assert self.waits == []
        assert self.held_bytes <= promised + self.shared_bytes, "more than session_bytes says"
        spare = (1 - MEMORY_SHARE) * (SMALLEST_GPU_BYTES - self.weights_bytes)
        assert self.peak_bytes - self.weights_bytes - promised <= spare, "more than is left for activations"


def full_bank(card: ModelCard, ranks: Sequence[int], dtype: torch.dtype) -> LoraBank:
    """LoRAs that add to all Linears of the layers."""
    dims = card.transformer
    sides = widths(dims)

    def zeros(rank: int, width: int) -> torch.Tensor:
        return torch.zeros(dims.num_layers, rank, width, dtype=dtype, device=CUDA)

    loras = [
        {target: Stack(zeros(rank, one), zeros(rank, other)) for target, (one, other) in sides.items()}
        for rank in ranks
    ]
    return LoraBank(loras, sides, dims.num_layers)


@contextmanager
def rank(
    card: ModelCard,
    *,
    num_ranks: int = 1,
    number: int = 0,
    stagger: int = 1,
    capability: tuple[int, int] = (9, 0),
    dtype: torch.dtype = torch.bfloat16,
    quantize: Any = "none",
    kernel: Kernel | None = None,
    lora_ranks: Sequence[int] = (),
    **shape_values: Any,
) -> Iterator[Rank]:
    """Rank `number` of so many; the others are not there. `lora_ranks`: of LoRAs of all layers' Linears."""
    shape: Shape = make_shape(card, stagger, num_ranks, **shape_values)
    with counting_cuda(capability) as counter, group(num_ranks, number) as exchange:
        model = build_model(card, None, 0, CUDA, dtype, quantize)
        bank = full_bank(card, lora_ranks, dtype) if lora_ranks else None
        weights_bytes = counter.live_bytes
        runner = Runner(model, card, shape, number, exchange, kernel, bank)
        yield Rank(runner, counter, weights_bytes)
