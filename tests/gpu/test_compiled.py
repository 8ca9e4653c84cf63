"""Compiled layers on a GPU: no session compiles, and its latents are those of plain layers."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cascade_core.config import EngineConfig, make
from cascade_core.ranks.compiling import compile_layers, missing_tool
from cascade_core.ranks.warm_up import warm_up
from tests.gpu.support import SIDE, placed_runner, relative_l2, small_card
from tests.support import run_blocks

SIZES = [(SIDE, SIDE), (96, 160), (SIDE, 48)]
NUM_BLOCKS = 7


@pytest.fixture(autouse=True)
def fresh(device: torch.device) -> Iterator[None]:
    if lacking := missing_tool(device):
        pytest.skip(f"needs {lacking}")
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def sessions(device: torch.device, compiled: bool, stagger: int) -> list[Tensor]:
    """Latents [blocks, F, C, h, w] of a session of each size, with a switch that re-encodes."""
    card = small_card(sink_blocks=1, window_blocks=3, rope="window")
    card = replace(card, video=replace(card.video, width=SIDE, height=SIDE))
    runner = placed_runner(card, device, torch.bfloat16, stagger)
    if compiled:
        compile_layers(runner.model, card.tokens_per_block(SIDE, SIDE))
    warm_up(runner, make(EngineConfig, {"model": "demo"}), card)
    made = []
    with torch.compiler.set_stance("fail_on_recompile"):
        for height, width in SIZES:
            blocks = run_blocks(runner, NUM_BLOCKS, {4: (1, "recache")}, height=height, width=width)
            made.append(torch.stack([blocks[block].cpu() for block in range(NUM_BLOCKS)]))
    return made


@pytest.mark.parametrize("stagger", [1, 2, 5])
def test_no_session_compiles(stagger: int, device: torch.device) -> None:
    plain = sessions(device, compiled=False, stagger=stagger)
    for made, expected in zip(sessions(device, compiled=True, stagger=stagger), plain, strict=True):
        assert made.isfinite().all()
        assert relative_l2(made, expected) < 0.02
