"""Operations and bytes of a pass, in closed form from the model's dimensions.

Exact for matrix products, attention and what ranks gather: tests/cuda_dry counts the same in a trace.
"""

from dataclasses import dataclass

from cascade_core.config import ModelCard
from cascade_core.schedule import Shape, TickPlan, Work, cached_blocks, sight

PATCH = 4
"""Latent pixels that make a token."""


@dataclass(frozen=True)
class View:
    """How many blocks' keys one pass attends to."""

    clean: int
    """From the cache, before the gather has arrived."""
    in_flight: int

    @property
    def blocks(self) -> int:
        return self.clean + self.in_flight


def views(plan: TickPlan, shape: Shape) -> tuple[tuple[View, ...], ...]:
    """Per rank, what each of its passes sees."""
    works = plan.works
    num_clean = works[0].block

    def view(work: Work) -> View:
        oldest, in_flight = sight(work, works, shape, plan.inflight_attention)
        return View(_clean_blocks(oldest, num_clean, shape), len(in_flight))

    return tuple(tuple(view(work) for work in rank) for rank in plan.ranks)


def _clean_blocks(oldest: int, num_clean: int, shape: Shape) -> int:
    """As `KvCache.visible` has it, of a session that was never opened in the middle."""
    window = shape.window
    sink = min(window.sink_blocks, num_clean)
    kept = max(oldest, window.sink_blocks, num_clean - (window.window_blocks - 1))
    return sink + max(0, num_clean - kept)


def product_flop(card: ModelCard, tokens: int) -> float:
    """Matrix products of one pass of one block; `tokens` is what it has."""
    dims = card.transformer
    layer = 6 * dims.dim**2 + 2 * dims.dim * dims.ffn_dim  # q k v o, text q o, feed-forward
    ends = 2 * PATCH * dims.in_channels * dims.dim  # patches in, velocities out
    return 2.0 * tokens * (dims.num_layers * layer + ends)


def attention_flop(card: ModelCard, tokens: int, num_blocks: float, text: bool = True) -> float:
    """Attention of one pass of one block to that many blocks and, with `text`, to the prompt."""
    dims = card.transformer
    keys = num_blocks * tokens + (dims.text_len if text else 0)
    return 4.0 * dims.num_layers * tokens * keys * dims.dim


def gathered_bytes(card: ModelCard, tokens: int, plan: TickPlan, shape: Shape) -> float:
    """What each rank receives in a tick in bfloat16: keys and values of the others' slots.

    A block that is alone travels in its context pass only, for the caches.
    """
    if len(plan.works) == 1 and not cached_blocks(plan, shape):
        return 0.0
    slots = max(len(rank) for rank in plan.ranks)
    dims = card.transformer
    return 2.0 * 2 * dims.num_layers * (shape.num_ranks - 1) * slots * tokens * dims.dim
