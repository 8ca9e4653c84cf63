"""Opening at block n from clean latents: the same cache, and the same video, as never having stopped."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from cascade_core.attention.kv_cache import KvCache
from cascade_core.config import EngineConfig, InflightAttention, ModelCard, SwitchMode, make
from cascade_core.ranks.runner import Runner
from cascade_core.request import SessionRequest, check_request, first_timeline, initial_prompts, with_defaults
from cascade_core.schedule import SwitchReceipt, context_blocks, starting_block, switch_prompt
from tests.support import Drive, make_runner, prompt_embedding, relative_error, tiny_card, tiny_model

CONFIG = make(EngineConfig, {"model": "tiny"})
TEXTS = ["first", "second", "third"]
"""Imagined prompts 0, 1 and 2 of `tests.support`."""
PROMPTS = {0: "first", 2: "second", 5: "third"}
"""Prompt timeline of most sessions here."""


def cached(runner: Runner, next_block: int) -> dict[int, list[tuple[Tensor, Tensor]]]:
    """Keys and values per layer of the clean blocks that block `next_block` sees."""
    cache: KvCache = runner.sessions[0].cache
    sink, recent = cache.visible(next_block - runner.shape.window.window_blocks + 1)
    layers = range(runner.model.config.num_layers)
    for layer in layers:
        cache.turn_sink(layer, 0)  # where it was written, not where its last reader wanted it
    return {
        block: [tuple(part.clone() for part in cache.read(layer, [block])[0]) for layer in layers]
        for block in [*sink, *recent]
    }


def compare(
    actual: Mapping[int, list[tuple[Tensor, Tensor]]], expected: dict[int, list[tuple[Tensor, Tensor]]]
) -> None:
    assert sorted(actual) == sorted(expected)
    for block, layers in expected.items():
        for layer, pair in enumerate(layers):
            for ours, wanted in zip(actual[block][layer], pair, strict=True):
                assert relative_error(ours, wanted) < 1e-4, (block, layer)


def run_until_clean(drive: Drive, block: int, prompts: Mapping[int, str]) -> None:
    """Until the cache holds everything before `block`, switching at the boundary of each entry."""
    while drive.runner.sessions[0].cache.end < block:
        step(drive, prompts)


def step(drive: Drive, prompts: Mapping[int, str], mode: SwitchMode = "boundary") -> SwitchReceipt | None:
    """One tick, and before it the switch that its starting block brings, as the engine does."""
    receipt = None
    starting = starting_block(drive.timeline, drive.runner.shape)
    if starting in prompts and starting:
        number = sorted(prompts).index(starting)
        drive.timeline, receipt = switch_prompt(drive.timeline, drive.runner.shape, number, mode)
    drive.tick()
    return receipt


def reopened(runner: Runner, request: SessionRequest) -> Drive:
    request = with_defaults(request, CONFIG, runner.card)
    check_request(request, CONFIG, runner.card)
    timeline = first_timeline(0, request, runner.shape)
    drive = Drive.open(runner, timeline=timeline, context=request.context, seed=7)
    for number, entry in enumerate(initial_prompts(request)):
        imagined = TEXTS.index(request.prompts[entry])
        runner.add_prompt(0, number, prompt_embedding(runner.card, imagined))
    return drive


def context_of(drive: Drive, start: int) -> dict[int, Tensor]:
    """What a journal would keep."""
    return {block: drive.emitted[block] for block in context_blocks(drive.runner.shape.window, start)}


CARDS: dict[str, ModelCard] = {
    "plain": tiny_card(window_blocks=5),
    "sink": tiny_card(window_blocks=5, sink_blocks=1, rope="window"),
    "context_window": tiny_card(window_blocks=5, sink_blocks=2, context_window_blocks=2, rope="window"),
}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("start", [1, 2, 3, 5])
def test_sequential_goes_on_as_if_it_had_never_stopped(card: ModelCard, start: int) -> None:
    """Everything still lies in the window (start <= window_blocks); a prompt switch before and after."""
    model, end = tiny_model(card), start + 3
    stayed = Drive.open(make_runner(card, 5, model=model))
    run_until_clean(stayed, start, PROMPTS)
    expected = cached(stayed.runner, start)
    assert sorted(expected) == sorted(
        {*range(start)} - {start - 5} | {*range(min(start, card.window.sink_blocks))}
    )
    context = context_of(stayed, start)
    run_until_clean(stayed, end, PROMPTS)

    back = reopened(
        make_runner(card, 5, model=model), SessionRequest(PROMPTS, start_block=start, context=context)
    )
    back.tick()
    compare(cached(back.runner, start), expected)
    run_until_clean(back, end, PROMPTS)
    assert sorted(back.emitted) == list(range(start, end))
    for block in range(start, end):
        assert relative_error(back.emitted[block], stayed.emitted[block]) < 1e-4, block
    compare(cached(back.runner, end), cached(stayed.runner, end))


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("stagger", [1, 2])
def test_the_cascade_finds_the_same_cache(
    card: ModelCard, attention: InflightAttention, stagger: int
) -> None:
    """Cached keys do not depend on the noisier blocks that were in flight beside them."""
    model, start = tiny_model(card), 5
    stayed = Drive.open(make_runner(card, stagger, attention, model))
    run_until_clean(stayed, start, PROMPTS)
    request = SessionRequest(PROMPTS, start_block=start, context=context_of(stayed, start))
    back = reopened(make_runner(card, stagger, attention, model), request)
    back.tick()
    compare(cached(back.runner, start), cached(stayed.runner, start))


@pytest.mark.parametrize("stagger", [1, 2, 5])
def test_a_journal_of_receipts_finds_the_same_cache_after_an_immediate_switch(stagger: int) -> None:
    """The journal notes each prompt at the first block that its receipt says it touched."""
    card = tiny_card(window_blocks=8)
    model, start = tiny_model(card), 7
    stayed = Drive.open(make_runner(card, stagger, model=model))
    journal = {0: "first"}
    while stayed.runner.sessions[0].cache.end < start:
        if receipt := step(stayed, {0: "first", 5: "second"}, "immediate"):
            journal[receipt.first_block_touched] = "second"
    request = SessionRequest(journal, start_block=start, context=context_of(stayed, start))
    back = reopened(make_runner(card, stagger, model=model), request)
    back.tick()
    compare(cached(back.runner, start), cached(stayed.runner, start))


def test_primed_blocks_carry_the_prompts_they_were_made_with() -> None:
    card = CARDS["plain"]
    context = {block: torch.zeros(card.latent_shape(32, 32)) for block in range(2, 7)}
    request = SessionRequest({**PROMPTS, 9: "first"}, start_block=7, context=context)
    timeline = first_timeline(0, request, make_runner(card, 1).shape)
    texts = [request.prompts[entry] for entry in initial_prompts(request)]
    primed = {work.block: texts[work.prompt] for work in timeline.to_prime}
    assert primed == {2: "second", 3: "second", 4: "second", 5: "third", 6: "third"}
    assert texts[timeline.prompt] == "third"


def test_the_prompt_matters_to_the_cache() -> None:
    """So that the comparisons above compare something."""
    card = CARDS["plain"]
    model = tiny_model(card)
    stayed = Drive.open(make_runner(card, 5, model=model))
    run_until_clean(stayed, 5, PROMPTS)
    request = SessionRequest({0: "first"}, start_block=5, context=context_of(stayed, 5))
    back = reopened(make_runner(card, 5, model=model), request)
    back.tick()
    with pytest.raises(AssertionError):
        compare(cached(back.runner, 5), cached(stayed.runner, 5))


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("stagger", [1, 5])
def test_beyond_the_window_it_runs_and_is_finite(card: ModelCard, stagger: int) -> None:
    """What had left the window is gone for good, so the cache is near, not equal."""
    model, start = tiny_model(card), 11
    stayed = Drive.open(make_runner(card, stagger, model=model))
    run_until_clean(stayed, start, PROMPTS)
    request = SessionRequest(PROMPTS, start_block=start, context=context_of(stayed, start))
    back = reopened(make_runner(card, stagger, model=model), request)
    back.tick()
    assert sorted(cached(back.runner, start)) == sorted(cached(stayed.runner, start))
    run_until_clean(back, start + 4, PROMPTS)
    for block in range(start, start + 4):
        assert back.emitted[block].isfinite().all()
        assert back.emitted[block].std() < 10


def test_recache_right_after_priming() -> None:
    card = tiny_card(window_blocks=3, sink_blocks=1)
    start = 10
    wanted = context_blocks(card.window, start)
    context = {block: torch.randn(card.latent_shape(32, 32)) for block in wanted}
    request = SessionRequest({0: "first"}, start_block=start, context=context)
    back = reopened(make_runner(card, 1), request)
    back.switch(1, "recache")
    for _ in range(4):
        back.tick()
