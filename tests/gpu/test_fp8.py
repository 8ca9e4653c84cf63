"""FP8 on a GPU against the same on the CPU, which rounds alike and adds in another order."""

import pytest
import torch
from torch import Tensor, nn

from cascade_core.attention.exchange import SoloExchange
from cascade_core.model.fp8 import LEAST_CAPABILITY, Fp8Linear, quantize_model
from cascade_core.ranks.runner import Runner
from tests.gpu.support import SIDE, placed_model, relative_l2, small_card
from tests.support import CPU, make_shape, run_blocks

SAME_ROUNDING = 0.01
"""Relative L2 error: sums of Hopper's fast accumulation have fewer bits."""
FROM_FLOAT = 0.06


@pytest.fixture(autouse=True)
def _has_fp8(device: torch.device) -> None:
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        pytest.skip(f"FP8 needs compute capability 8.9, this GPU has {capability}")


@pytest.mark.parametrize("widths", [(1536, 8960), (8960, 1536), (5120, 5120), (64, 48)])
@pytest.mark.parametrize("num_tokens", [1, 333, 4680])
@torch.inference_mode()
def test_a_linear(widths: tuple[int, int], num_tokens: int, device: torch.device) -> None:
    """Tokens of very unequal size: each has its own scale on both."""
    torch.manual_seed(0)
    linear = nn.Linear(*widths, dtype=torch.bfloat16)
    x = (torch.randn(1, num_tokens, widths[0]) * torch.logspace(-2, 2, num_tokens)[:, None]).bfloat16()
    expected = Fp8Linear(linear)(x)
    assert relative_l2(Fp8Linear(linear.to(device))(x.to(device)), expected) < SAME_ROUNDING


def latents(device: torch.device, dtype: torch.dtype, in_fp8: bool) -> Tensor:
    """Clean latents [blocks, F, C, h, w] of a full cascade."""
    card = small_card()
    model = placed_model(card, device, dtype)
    if in_fp8:
        quantize_model(model)
    blocks = run_blocks(
        Runner(model, card, make_shape(card, 1), 0, SoloExchange()), 5, height=SIDE, width=SIDE
    )
    return torch.stack([blocks[block].cpu() for block in range(5)])


def test_a_session(device: torch.device) -> None:
    """As near to float32 as on a CPU, where it is 0.039 off."""
    expected = latents(CPU, torch.float32, in_fp8=False)
    assert relative_l2(latents(device, torch.bfloat16, in_fp8=True), expected) < FROM_FLOAT
