"""Numbers in 8 bits (e4m3), and the scales that groups of them share."""

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
LEAST = 1e-12
"""Where the largest value of a group is below it, the scale is as for this one: never 0."""


def quantize(x: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """FP8 values and float32 scales of x, one scale for all numbers along `dim`: x is about values * scales.

    The scales keep these dimensions, with size 1. The largest value of a group becomes the largest of FP8,
    whatever other groups hold.
    """
    scales = x.abs().amax(dim, keepdim=True).float().clamp(min=LEAST) / LARGEST
    return (x / scales).to(FP8), scales
