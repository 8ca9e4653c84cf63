"""CUDA against the CPU in float32: one forward, whole runs, noise."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cascade_core.attention.attention import attend_partial
from cascade_core.attention.rope import RotaryTable
from cascade_core.model.model import Conditioning
from cascade_core.model.sampler import block_noise
from tests.gpu.support import SIDE, placed_model, placed_runner, relative_l2, small_card
from tests.support import CPU, Drive, prompt_embedding, run_blocks

BF16_FORWARD = 0.02
"""Relative L2 error. The same forward in bf16 on a CPU is 0.007 from float32."""
BF16_RUN = 0.015
"""On a CPU 0.0055, whatever the run. Runs of different settings lie 0.02 to 0.15 apart."""
FP32 = 1e-3
"""Only the order of sums differs."""

RUNS = {
    "sequential": (5, "bidirectional", {}),
    "bidirectional": (1, "bidirectional", {}),
    "causal": (1, "causal", {}),
    "stagger 2": (2, "bidirectional", {}),
    "sink": (1, "bidirectional", {"sink_blocks": 1, "window_blocks": 3}),
    "rope window": (1, "bidirectional", {"sink_blocks": 1, "window_blocks": 2, "rope": "window"}),
    "context window": (1, "causal", {"window_blocks": 2, "context_window_blocks": 1}),
}
NUM_BLOCKS = 7
runs = pytest.mark.parametrize("run", RUNS)


def latents(run: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Clean latents [blocks, F, C, h, w] of a whole run, on the CPU."""
    stagger, attention, values = RUNS[run]
    runner = placed_runner(small_card(**values), device, dtype, stagger, attention)
    blocks = run_blocks(runner, NUM_BLOCKS, height=SIDE, width=SIDE)
    return torch.stack([blocks[block].cpu() for block in range(NUM_BLOCKS)])


@runs
def test_bf16_on_cuda_is_near_float32_on_the_cpu(run: str, device: torch.device) -> None:
    expected = latents(run, CPU, torch.float32)
    assert relative_l2(latents(run, device, torch.bfloat16), expected) < BF16_RUN


@runs
def test_float32_on_cuda_equals_the_cpu(run: str, device: torch.device) -> None:
    expected = latents(run, CPU, torch.float32)
    assert relative_l2(latents(run, device, torch.float32), expected) < FP32


@torch.inference_mode()
def velocity(device: torch.device, dtype: torch.dtype) -> Tensor:
    """One forward of two blocks that each see themselves."""
    card = small_card()
    model = placed_model(card, device, dtype)
    side = SIDE // 16
    turns = RotaryTable(3, side, side, card.transformer.head_dim, device).turns([0, 3])
    time, modulation = model.embed_time([1000.0, 625.0])
    text = model.embed_text(prompt_embedding(card, 0))

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        blocks = zip(query, key, value, strict=True)
        return torch.stack([attend_partial(q, (k, v))[0] for q, k, v in blocks])

    noisy = torch.randn(2, 3, 16, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(1))
    return model(noisy.to(device), Conditioning(time, modulation, turns, (text, text)), attend)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, BF16_FORWARD), (torch.float32, FP32)], ids=["bf16", "float32"]
)
def test_one_forward(dtype: torch.dtype, tolerance: float, device: torch.device) -> None:
    assert relative_l2(velocity(device, dtype), velocity(CPU, torch.float32)) < tolerance


def test_noise_does_not_depend_on_the_device(device: torch.device) -> None:
    """What the model is given for a new block on CUDA is the CPU's noise, bit for bit."""
    card = small_card()
    given: list[Any] = []
    runner = placed_runner(card, device, torch.bfloat16)
    runner.model.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].clone()))
    drive = Drive.open(runner, seed=11, height=SIDE, width=SIDE)
    drive.tick()
    expected = block_noise(11, 0, 0, card.latent_shape(SIDE, SIDE))
    assert torch.equal(given[0][0].cpu(), expected)
