"""Before the first session: what libraries plan for each new shape, they plan now."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import lcm

import torch

from cascade_core.config import EngineConfig, ModelCard, allowed_attentions, allowed_staggers
from cascade_core.loras import MAX_CHOSEN, Choice
from cascade_core.model.model import CausalWanModel
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Shape, Timeline, context_blocks, plan_tick, work_on

SESSION = -1
"""Its number; a client's is never negative."""


@dataclass(frozen=True)
class Rehearsal:
    """A session that meets shapes."""

    shape: Shape
    start: int
    """Its first block; it is primed with those before."""
    end: int
    """The block before which it ends."""
    recache: bool = False
    """It re-encodes its window first."""
    choice: Choice = ()
    """LoRAs that it has."""
    cuts: tuple[int, ...] = ()
    """Its scene cuts."""


def warm_up(runner: Runner, config: EngineConfig, card: ModelCard) -> None:
    """No session pays for kernels or connections.

    Attention on CUDA is planned for each new number of keys, so there it meets all that sessions can bring,
    in one layer, since all layers are alike. What that held is given back, so that `free_bytes` counts it.
    """
    model = runner.model
    on_cuda = model.device.type == "cuda"
    if on_cuda:
        with one_layer(model):
            for each in rehearsals(runner.shape, config, card):
                rehearse(runner, each)
    rehearse(runner, Rehearsal(runner.shape, 0, 1))
    if config.loras:
        everything = tuple((place, 1.0) for place in range(len(config.loras)))
        rehearse(runner, Rehearsal(runner.shape, 0, 1, choice=everything[:MAX_CHOSEN]))
    if on_cuda:
        torch.cuda.synchronize(model.device)
        torch.cuda.empty_cache()


def rehearsals(shape: Shape, config: EngineConfig, card: ModelCard) -> list[Rehearsal]:
    """Sessions that between them meet every shape: of all staggers and attentions that are allowed, until
    every rank has been at every place of the window's ring; and wherever one may be resumed, or its window be
    encoded anew."""
    window = shape.window
    num_blocks = window.sink_blocks + window.window_blocks + lcm(window.window_blocks, shape.num_ranks)
    shapes = [
        replace(shape, stagger=stagger, inflight_attention=attention)
        for stagger in allowed_staggers(config, card)
        for attention in allowed_attentions(config)
    ]
    long = [Rehearsal(each, 0, num_blocks + each.max_in_flight) for each in shapes]
    resumed = [Rehearsal(shape, start, start, recache=True) for start in range(1, num_blocks)]
    if window.can_cut:  # one shot to the end, and such as end when they are in nobody's window any more
        each_shot = range(window.sink_blocks, num_blocks, window.window_blocks + 1)
        long += [replace(each, cuts=cuts) for each in long for cuts in ((*each_shot,), (*each_shot[:1],))]
        first = window.sink_blocks
        resumed += [replace(each, cuts=(first,)) for each in resumed if each.start > first]
    return long + resumed


def rehearse(runner: Runner, rehearsal: Rehearsal) -> None:
    """Run the session at the card's size."""
    card, shape, window = runner.card, rehearsal.shape, rehearsal.shape.window
    height, width = card.video.height, card.video.width
    start, end, cuts = rehearsal.start, rehearsal.end, rehearsal.cuts
    timeline = Timeline(SESSION, start, end, recache=rehearsal.recache, cuts=cuts)
    blocks = context_blocks(window, start, cuts)
    context = {block: torch.zeros(card.latent_shape(height, width)) for block in blocks}
    runner.open(SESSION, 0, height, width, context)
    runner.add_prompt(SESSION, 0, torch.zeros(1, card.transformer.text_dim), rehearsal.choice)
    primed = tuple(work_on(timeline, shape, block, shape.context_pass, 0) for block in blocks)
    plan, timeline = plan_tick(replace(timeline, to_prime=primed), shape)
    while plan:
        runner.tick(plan)
        plan, timeline = plan_tick(timeline, shape)
    runner.close(SESSION)


@contextmanager
def one_layer(model: CausalWanModel) -> Iterator[None]:
    """The model ends after its first layer."""
    blocks, config = model.blocks, model.config
    model.blocks, model.config = blocks[:1], replace(config, num_layers=1)
    try:
        yield
    finally:
        model.blocks, model.config = blocks, config
