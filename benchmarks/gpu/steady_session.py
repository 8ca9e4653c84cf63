"""One session in its steady state: its window is full, its pipeline too."""

import torch

from cascade_core.config import InflightAttention, ModelCard
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import (
    TickPlan,
    Timeline,
    Work,
    context_blocks,
    plan_tick,
    sight,
)

ATTENTION: InflightAttention = "bidirectional"


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
        oldest, in_flight = sight(work, plan.works, shape, ATTENTION)
        sink, window = self.runner.sessions[0].cache.visible(oldest)
        return work, len(sink) + len(window), len(in_flight)
