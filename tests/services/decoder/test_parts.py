"""The decoder's small parts, without a process: fair shares, settings, plans."""

from functools import partial
from typing import Any

import pytest

from cascade_core.config import find_card
from cascade_core.errors import InvalidConfig, UnknownModel
from services.common.environment import load_settings
from services.common.errors import UnsupportedMedia
from services.decoder.admission import make_plan
from services.decoder.fair_queue import FairQueue
from services.decoder.settings import DecoderSettings, Settings
from tests.services.support.decoder_support import opening
from tests.support import tiny_card


def test_a_long_line_does_not_hold_back_a_short_one() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for number in range(16):
        queue.push("a", number)
    queue.push("b", 100)
    queue.push("c", 200)
    queue.push("b", 101)
    assert [queue.pop() for _ in range(6)] == [0, 100, 200, 1, 101, 2]
    assert len(queue) == 13
    queue.drop("a")
    assert not len(queue)
    with pytest.raises(IndexError):
        queue.pop()


def test_the_contracts_bounds_are_the_defaults() -> None:
    settings = load_settings(Settings, {})
    assert settings.grpc.port == 50071
    assert settings.grpc.max_receive_bytes == settings.grpc.max_send_bytes == 17 * 2**20
    assert settings.health.stall_after_s < settings.decoder.block_deadline_s


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CASCADE_DECODER_CRF", "0"), ("CASCADE_DECODER_KIND", "taehv"), ("CASCADE_DECODER_DEADLINE", "1")],
)
def test_a_bad_variable_is_told_by_name(variable: str, value: str) -> None:
    with pytest.raises(InvalidConfig, match=variable):
        load_settings(Settings, {variable: value})


def test_a_plan_says_what_a_session_takes() -> None:
    card = find_card("demo")

    def plan(**changes: Any) -> Any:
        return make_plan(opening(**changes).open, card, DecoderSettings())

    assert plan().places == 1
    assert plan(width=112).places == 2
    assert plan(width=192, height=192).latent_shape == (3, 16, 24, 24)
    assert str(plan(fps=30000 / 1001).fps) == "30000/1001"
    with pytest.raises(UnknownModel, match="demo"):
        plan(model="krea-14b")
    with pytest.raises(UnsupportedMedia) as caught:
        plan(width=208, height=192)
    assert caught.value.violations[0][0] == "open.width"


def test_a_plan_for_the_vae_of_wan_2_2() -> None:
    """Its sides are multiples of 32, and its blocks need not be of 3 frames."""
    card = tiny_card(vae_factor=16, block_frames=8, in_channels=48)
    opening_of = partial(opening, model="tiny")
    assert make_plan(opening_of(width=64, height=32).open, card, DecoderSettings()).latent_shape == (
        8,
        48,
        2,
        4,
    )
    with pytest.raises(UnsupportedMedia, match=r"48 is not a multiple of 32 in 32\.\.4096"):
        make_plan(opening_of(width=64, height=48).open, card, DecoderSettings())


@pytest.mark.parametrize(("block_frames", "num_blocks"), [(1, 6), (3, 2), (8, 1)])
def test_a_decoder_is_warmed_up_by_as_many_frames(block_frames: int, num_blocks: int) -> None:
    assert DecoderSettings().num_warmup_blocks(tiny_card(block_frames=block_frames)) == num_blocks
