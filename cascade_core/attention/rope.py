"""Three-axis rotary embedding: time, height, width. Pure functions.

Rotations compose, and attention depends on position differences only. So a key that was rotated once is
moved by turning it further, and there is no table that could end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ROPE_THETA = 10000.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: turns consecutive pairs of x [..., D] by angles [..., D / 2], in float32."""
    even, odd = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
    pairs = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return pairs.flatten(-2).to(x.dtype)


def rope_frequencies(head_dim: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse frequencies (float64) of the time, height and width axes; 128 splits into 44, 42, 42."""
    side = 2 * (head_dim // 6)
    widths = (head_dim - 2 * side, side, side)

    def axis(width: int) -> Tensor:
        powers = torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
        return torch.pow(ROPE_THETA, -powers)

    return axis(widths[0]), axis(widths[1]), axis(widths[2])


def rope_angles(
    starts: Sequence[int], frames: int, height: int, width: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, L, 1, head_dim / 2] of blocks that begin at latent frames `starts`.

    Height and width are in patches, L = frames * height * width. Positions enter as host integers, so
    building the table never waits for the device, and float64 angles stay exact for endless sessions.
    """
    time, rows, columns = rope_frequencies(head_dim, device)

    def positions(count: int) -> Tensor:
        return torch.arange(count, dtype=torch.float64, device=device)[:, None]

    row_angles = (positions(height) * rows)[None, :, None, :].expand(frames, -1, width, -1)
    column_angles = (positions(width) * columns)[None, None, :, :].expand(frames, height, -1, -1)

    def block(start: int) -> Tensor:
        time_angles = ((positions(frames) + start) * time)[:, None, None, :].expand(-1, height, width, -1)
        return torch.cat([time_angles, row_angles, column_angles], dim=-1).flatten(0, 2)

    angles = torch.stack([block(start) for start in starts])[:, :, None, :]  # [N, L, 1, D/2]
    return angles.cos().float(), angles.sin().float()


def time_shift_angles(num_frames: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [1, head_dim / 2] that move an already rotated key by `num_frames` in time."""
    time, rows, columns = rope_frequencies(head_dim, device)
    angles = torch.cat([time * num_frames, torch.zeros_like(rows), torch.zeros_like(columns)])[None]
    return angles.cos().float(), angles.sin().float()
