"""Warming up meets every shape that sessions bring later: none is planned for inside a tick."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.emulated import EmulatedExchange
from cascade_core.attention import joint_attention
from cascade_core.attention.exchange import Exchange, SoloExchange
from cascade_core.config import EngineConfig, InflightAttention, ModelCard, SwitchMode, make
from cascade_core.model.model import CausalWanModel
from cascade_core.ranks.runner import Runner
from cascade_core.ranks.warm_up import one_layer, rehearsals, rehearse
from cascade_core.schedule import Shape, Timeline, context_blocks, plan_tick, switch_prompt, work_on
from tests.support import CPU, SIDE, prompt_embedding, tiny_card, tiny_model

MODES: tuple[SwitchMode, ...] = ("immediate", "boundary", "recache")
ATTENTIONS: tuple[InflightAttention, ...] = ("bidirectional", "causal")
NUM_PASSES, NUM_BLOCKS, NUM_PROMPTS = 5, 14, 12
WINDOWS: dict[str, dict[str, Any]] = {
    "window": {},
    "sink": {"sink_blocks": 2, "window_blocks": 5, "rope": "window"},
    "context window": {"window_blocks": 2, "context_window_blocks": 1},
    "counts behind": {"sink_blocks": 1, "window_blocks": 6, "rope": "window"},
    "shots": {"sink_blocks": 1, "window_blocks": 3, "rope": "window", "shot_shift_frames": 3},
}

Met = set[tuple[object, ...]]


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[Met]:
    """Sizes and strides of what attention is called with, and sizes of forwards."""
    met: Met = set()
    attend, forward = joint_attention.attend_partial, CausalWanModel.forward

    @wraps(attend)
    def record_attend(query: Tensor, key_value: Any, *rest: Any) -> Any:
        tensors = (query, *key_value)
        met.add(("attention", *((x.shape, x.stride()) for x in tensors)))
        return attend(query, key_value, *rest)

    @wraps(forward)
    def record_forward(model: CausalWanModel, latents: Tensor, *rest: Any) -> Tensor:
        met.add(("forward", latents.shape))
        return forward(model, latents, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(joint_attention, "attend_partial", record_attend)
        patch.setattr(CausalWanModel, "forward", record_forward)
        yield met


def make_rank(card: ModelCard, num_ranks: int, rank: int, counts_behind: bool) -> Runner:
    exchange: Exchange = EmulatedExchange(num_ranks, rank, CPU) if num_ranks > 1 else SoloExchange()
    shape = Shape(NUM_PASSES, 1, num_ranks, card.window, counts_behind=counts_behind)
    return Runner(tiny_model(card), card, shape, rank, exchange)


def run_session(runner: Runner, shape: Shape, start: int, chance: random.Random) -> None:
    """With switches at any time, in any mode; where there may be cuts, some time after one."""
    card = runner.card
    latents = torch.zeros(card.latent_shape(SIDE, SIDE))
    timeline = Timeline(0, start, start + NUM_BLOCKS, cuts=(1,) if card.window.can_cut and start > 1 else ())
    blocks = context_blocks(card.window, start, timeline.cuts)
    runner.open(0, 0, SIDE, SIDE, dict.fromkeys(blocks, latents))
    for prompt in range(NUM_PROMPTS):
        runner.add_prompt(0, prompt, prompt_embedding(card, prompt))
    primed = tuple(work_on(timeline, shape, block, shape.context_pass, 0) for block in blocks)
    timeline = replace(timeline, to_prime=primed)
    while True:
        if chance.random() < 0.15 and timeline.prompt + 1 < NUM_PROMPTS:
            modes = (*MODES, "cut") if card.window.can_cut else MODES
            timeline, _ = switch_prompt(timeline, shape, timeline.prompt + 1, chance.choice(modes))
        plan, timeline = plan_tick(timeline, shape)
        if plan is None:
            break
        runner.tick(plan)
    runner.close(0)


@pytest.mark.parametrize(
    ("window", "num_ranks", "rank"),
    [
        pytest.param(window, *ranks, marks=[pytest.mark.slow] if window == "shots" and ranks[1] != 1 else [])
        for window in WINDOWS
        for ranks in ((1, 0), (2, 1), (5, 4))
    ],
)
def test_no_session_meets_a_new_shape(
    window: str, num_ranks: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tiny_card(num_layers=1, **WINDOWS[window])
    runner = make_rank(card, num_ranks, rank, counts_behind=window == "counts behind")
    config = make(EngineConfig, {"model": "demo", "num_ranks": num_ranks})
    with recording(monkeypatch) as met:
        for each in rehearsals(runner.shape, config, card):
            rehearse(runner, each)
    chance = random.Random(num_ranks + rank)
    with recording(monkeypatch) as needed:
        for start in (0, 0, 1, 2, 7, 12):
            stagger, attention = chance.randint(1, NUM_PASSES), chance.choice(ATTENTIONS)
            shape = replace(runner.shape, stagger=stagger, inflight_attention=attention, set_back=2)
            run_session(runner, shape, start, chance)
    assert len(needed) > 2
    assert needed <= met
    assert not runner.sessions


def test_what_nobody_may_ask_for_is_not_rehearsed() -> None:
    card = tiny_card()
    shape = Shape(NUM_PASSES, 5, 1, card.window)
    asked = {
        "model": "demo",
        "stagger": 5,
        "allowed_staggers": [5],
        "allowed_inflight_attentions": ["causal"],
    }
    few = rehearsals(shape, make(EngineConfig, asked | {"inflight_attention": "causal"}), card)
    many = rehearsals(shape, make(EngineConfig, {"model": "demo", "stagger": 5}), card)
    assert len({(each.shape.stagger, each.shape.inflight_attention) for each in few if not each.recache}) == 1
    assert len(many) - len(few) == 2 * NUM_PASSES - 1


def test_one_layer_stands_for_all() -> None:
    model = tiny_model(tiny_card(num_layers=3))
    before = model.state_dict()
    with one_layer(model):
        assert (len(list(model.layers)), model.config.num_layers) == (1, 1)
    assert (len(list(model.layers)), model.config.num_layers) == (3, 3)
    assert list(model.state_dict()) == list(before)
