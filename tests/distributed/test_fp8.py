"""The engine in FP8, with real ranks: the same video each time, near the one in float."""

import logging
from pathlib import Path

import pytest

from cascade_core.errors import InvalidConfig
from tests.engine_support import assert_same, generate, running_engine

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_session_repeats_itself_on_two_ranks(card: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running_engine(card) as plain:
        expected = await generate(plain, 4)
    with caplog.at_level(logging.WARNING):
        async with running_engine(card, num_ranks=2, quantize="fp8") as engine:
            first, second = await generate(engine, 4), await generate(engine, 4)
    assert_same(second, first)
    for block, latents in expected.items():
        assert 0 < (first[block] - latents).norm() / latents.norm() < 0.1
    assert "quantize: fp8 is slow on a CPU" in caplog.text


async def test_attention_in_8_bits_is_refused_at_the_start(card: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"^quantize_attention: needs FlashAttention 3"):
        async with running_engine(card, quantize_attention=True):
            pass
