"""The real engine, its rank process and all, on one GPU."""

import asyncio

import pytest
import torch
from torch import Tensor

from cascade_core.config import EngineConfig, find_card, make
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import LatentBlock
from cascade_core.model.fp8 import LEAST_CAPABILITY
from cascade_core.request import SessionRequest

NUM_BLOCKS = 9
PROMPTS = {0: "a red circle moves left", 4: "a blue square"}


async def generate(**config: object) -> tuple[str, dict[int, Tensor]]:
    values = {"model": "demo", "weights": "random", "num_ranks": 1} | config
    async with await Engine.start(make(EngineConfig, values)) as engine:
        session = await engine.open(SessionRequest(PROMPTS, seed=3, num_blocks=NUM_BLOCKS))
        events = [event async for event in session]
        assert engine.status.max_sessions > 0
        return engine.status.device, {e.index: e.latents for e in events if isinstance(e, LatentBlock)}


@pytest.mark.parametrize("quantize", ["none", "fp8"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_video_of_latents(compiled: bool, quantize: str, device: torch.device) -> None:
    if quantize == "fp8" and torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        pytest.skip("this GPU has no FP8")
    used, blocks = asyncio.run(generate(device=device.type, compile=compiled, quantize=quantize))
    card = find_card("demo")
    assert used.startswith(device.type)
    assert list(blocks) == list(range(NUM_BLOCKS))
    for latents in blocks.values():
        assert latents.shape == card.latent_shape(card.video.height, card.video.width)
        assert latents.isfinite().all()
        assert 0.1 < latents.std() < 10
