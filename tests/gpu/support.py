"""Tiny models on a given device, with the head width (128) of the real ones."""

from typing import Any

import torch
from torch import Tensor

from cascade_core.attention.exchange import Exchange, SoloExchange
from cascade_core.config import InflightAttention, ModelCard
from cascade_core.model.model import CausalWanModel, keep_float32
from cascade_core.ranks.runner import Runner
from tests.support import make_shape, tiny_card, tiny_model

SIDE = 64
"""Frame side in pixels: 48 tokens a block."""
DIMS = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 3, "text_dim": 32, "in_channels": 16}


def small_card(**values: Any) -> ModelCard:
    return tiny_card(**(DIMS | {"freq_dim": 64} | values))


def placed_model(card: ModelCard, device: torch.device, dtype: torch.dtype) -> CausalWanModel:
    """The same weights on any device, in the types the engine would give them."""
    model = tiny_model(card)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(device, torch.float32 if keep_float32(name) else dtype)
    return model


def placed_runner(
    card: ModelCard,
    device: torch.device,
    dtype: torch.dtype,
    stagger: int = 1,
    attention: InflightAttention = "bidirectional",
    exchange: Exchange | None = None,
) -> Runner:
    model = placed_model(card, device, dtype)
    shape = make_shape(card, stagger, attention=attention)
    return Runner(model, card, shape, 0, exchange or SoloExchange())


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    difference = actual.cpu().double() - expected.cpu().double()
    return float(difference.norm() / expected.cpu().double().norm())
