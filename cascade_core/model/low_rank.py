"""LoRAs beside the weights: low-rank products next to the layers' Linears, with scales by row of tokens.

A LoRA lies stacked over layers, so that several are put together by one copy for each kind of Linear.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cascade_core.config import TransformerConfig

TARGETS = (
    *(f"{attention}.{part}" for attention in ("self_attn", "cross_attn") for part in "qkvo"),
    *("ffn.0", "ffn.2"),
)
"""The Linears of a layer, all of which a LoRA may add to."""
MIN_RANK = 2
"""A lower one is filled up with zeros: a size of 1 never stands for others in a compiled form."""

Low = tuple[Tensor, Tensor, Tensor]
"""Of one Linear from K to M: a [R, K], b [R, M], and each row's scales [N, 1, R]."""
LayerLow = Mapping[str, Low]
"""Of one layer, by target."""
NONE: LayerLow = {}


def widths(dims: TransformerConfig) -> dict[str, tuple[int, int]]:
    """K and M of every target."""
    square = dict.fromkeys(TARGETS, (dims.dim, dims.dim))
    return square | {"ffn.0": (dims.dim, dims.ffn_dim), "ffn.2": (dims.ffn_dim, dims.dim)}


def beside(linear: nn.Module, x: Tensor, low: Low | None) -> Tensor:
    """linear(x) [N, L, M] of x [N, L, K], and the low-rank product added, in the type of x."""
    product: Tensor = linear(x)
    if low is None:
        return product
    a, b, scales = low
    narrow = (x @ a.t()) * scales  # [N, L, R]
    return torch.addmm(product.flatten(0, 1), narrow.flatten(0, 1), b).view_as(product)


@dataclass(frozen=True)
class Stack:
    """One LoRA, or several side by side, at one target."""

    a: Tensor
    """[layers, R, K]."""
    b: Tensor
    """[layers, R, M]; has the LoRA's own scale in it."""

    @property
    def num_bytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in (self.a, self.b))

    def to(self, place: torch.device | torch.dtype) -> "Stack":
        return Stack(self.a.to(place), self.b.to(place))


Stacks = Mapping[str, Stack]
"""One LoRA, by target."""


@torch.inference_mode()
def stack(pairs: Iterable[tuple[Tensor, Tensor] | None], fan_in: int, fan_out: int) -> Stack:
    """Of each layer's a [R, K] and b [M, R], or None; all are filled up with zeros to the highest rank.

    Made in inference mode, as what is put together in a tick: compiled layers tell one kind from the other.
    """
    halves = [pair or (torch.zeros(0, fan_in), torch.zeros(fan_out, 0)) for pair in pairs]
    rank = max(MIN_RANK, *(len(a) for a, _ in halves))
    a, b = torch.zeros(len(halves), rank, fan_in), torch.zeros(len(halves), rank, fan_out)
    for layer, (narrow, wide) in enumerate(halves):
        a[layer, : len(narrow)] = narrow
        b[layer, : len(narrow)] = wide.t()
    return Stack(a, b)


@dataclass(frozen=True)
class LowRanks:
    """What one forward adds: the chosen LoRAs side by side, with each row's scales."""

    layers: tuple[LayerLow, ...]


def of_layer(low: LowRanks | None, layer: int) -> LayerLow:
    """What is added to a layer."""
    return low.layers[layer] if low else NONE
