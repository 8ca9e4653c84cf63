"""Ten thousand latent frames: finite, in the same memory, with the same work; and a clear end where due."""

from dataclasses import replace
from typing import Any

import psutil
import pytest
from torch import Tensor

from cascade_core.attention import joint_attention
from cascade_core.attention.attention import Kernel, KeyValue, Partial, attend_partial
from cascade_core.config import EngineConfig, ModelCard, make
from cascade_core.engine.session import Session
from cascade_core.errors import InvalidRequest
from cascade_core.request import SessionRequest, check_request, first_timeline, with_defaults
from cascade_core.schedule import Timeline
from tests.support import Drive, make_runner, make_shape, prompt_embedding, tiny_card

CONFIG = make(EngineConfig, {"model": "tiny"})
NUM_FRAMES = [3_000, pytest.param(10_000, marks=pytest.mark.slow)]
"""Latent frames: 12 and 42 minutes of video."""
MIB = 2**20


def least_card(**values: Any) -> ModelCard:
    """The least model that still has everything: two denoising passes, one layer, 12 tokens a block."""
    least = {"steps": (1000, 500), "dim": 16, "ffn_dim": 16, "num_layers": 1, "text_len": 2}
    return tiny_card(**least | values)


@pytest.mark.parametrize("num_frames", NUM_FRAMES)
def test_thousands_of_frames_in_flat_memory_with_flat_work(
    num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a prompt switch now and then, as a long session has. (`make bench` measures the time.)"""
    products = 0

    def counted(query: Tensor, key_value: KeyValue, kernel: Kernel | None) -> Partial:
        nonlocal products
        products += query.shape[0] * key_value[0].shape[0]
        return attend_partial(query, key_value, kernel)

    monkeypatch.setattr(joint_attention, "attend_partial", counted)
    card = least_card(rope="window", window_blocks=4, sink_blocks=1)
    num_blocks = -(-num_frames // card.window.block_frames)
    drive = Drive.open(make_runner(card, stagger=1), num_prompts=1)
    state = drive.runner.sessions[0]
    rows = state.cache._rows
    place = rows.data_ptr(), rows.shape
    warm_rss, work = 0, []
    while drive.timeline.next_block < num_blocks:
        number, is_due = divmod(drive.num_ticks, 100)
        if number and not is_due:
            drive.runner.add_prompt(0, number, prompt_embedding(card, number % 7))
            drive.switch(number, "boundary" if number % 2 else "immediate")
        before = products
        drive.tick()
        work.append(products - before)
        for latents in drive.emitted.values():
            assert latents.isfinite().all()
            assert latents.std() < 10
        drive.emitted.clear()
        assert len(state.noisy) <= card.sampling.num_passes
        assert (
            len(state.clean) <= card.sampling.num_passes + card.window.window_blocks + card.window.sink_blocks
        )
        assert len(state.prompts) <= 2
        if drive.num_ticks == 500:
            warm_rss = psutil.Process().memory_info().rss
    assert drive.num_ticks >= num_blocks
    assert state.cache._rows is rows
    assert (rows.data_ptr(), rows.shape) == place
    assert psutil.Process().memory_info().rss - warm_rss < 4 * MIB
    assert len(set(work[20:])) == 1, "from the full window on every tick attends to as many keys"


class NoHost:
    """A session on its own, without an engine."""

    def wake(self) -> None: ...

    def end(self, session: Session, event: object) -> None: ...

    async def switch(self, *args: object) -> None: ...


def session_of(card: ModelCard, **request: Any) -> Session:
    values: dict[str, Any] = {"prompts": {0: "a"}} | request
    return Session(NoHost(), 0, with_defaults(SessionRequest(**values), CONFIG, card), make_shape(card, 1))


@pytest.mark.parametrize("stagger", [1, 2, 3])
def test_absolute_positions_end_the_session_after_the_last_whole_block(stagger: int) -> None:
    """32 positions hold 10 blocks of 3 frames; two frames would stick out of the eleventh."""
    card = least_card(rope="absolute", max_positions=32, window_blocks=3)
    shape = make_shape(card, stagger)
    timeline = first_timeline(0, SessionRequest({0: "a"}), shape)
    assert timeline.end_block == shape.window.max_blocks == 10
    drive = Drive.open(make_runner(card, stagger), timeline=timeline, num_prompts=1)
    while not drive.timeline.finished:
        drive.tick()
    assert sorted(drive.emitted) == list(range(10))
    assert not drive.timeline.in_flight


def test_why_a_session_ended() -> None:
    absolute = least_card(rope="absolute", max_positions=32)
    assert session_of(absolute).last_reason == "positions_exhausted"
    assert session_of(absolute, num_blocks=11).last_reason == "positions_exhausted"
    assert session_of(absolute, num_blocks=10).last_reason == "complete"
    assert session_of(absolute, num_blocks=4).last_reason == "complete"
    assert session_of(least_card(rope="window"), num_blocks=5_000).last_reason == "complete"


def test_window_positions_never_end() -> None:
    card = least_card(rope="window", max_positions=32)
    timeline = first_timeline(0, SessionRequest({0: "a"}), make_shape(card, 1))
    assert timeline.end_block is None
    assert not replace(timeline, next_block=10_000).finished


def test_a_session_opened_near_the_end_of_the_table() -> None:
    card = least_card(rope="absolute", max_positions=32)
    shape = make_shape(card, 1)
    last = with_defaults(SessionRequest({0: "a"}, start_block=9), CONFIG, card)
    assert first_timeline(0, last, shape) == Timeline(0, next_block=9, end_block=10)
    with pytest.raises(InvalidRequest, match=r"start_block: 10 is not in 0\.\.9 \(rope = absolute\)"):
        check_request(replace(last, start_block=10), CONFIG, card)
