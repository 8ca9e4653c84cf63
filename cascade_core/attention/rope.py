"""Three-axis rotary embedding: time, height, width. Pure functions.

Rotations compose, and attention depends on position differences only. So a key that was rotated once is
moved by turning it further, and there is no table that could end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ROPE_THETA = 10000.0


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary embedding: turns consecutive pairs of x [..., D], in float32.

    `turns` [..., D / 2, 2], float32, are the cosine and sine of each pair's angle.
    """
    pairs = x.float().view(*x.shape[:-1], -1, 2)
    if torch.compiler.is_compiling():  # inductor writes kernels for real numbers alone
        (even, odd), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.flatten(-2).to(x.dtype)


def rope_frequencies(head_dim: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse frequencies (float64) of the time, height and width axes; 128 splits into 44, 42, 42."""
    side = 2 * (head_dim // 6)
    widths = (head_dim - 2 * side, side, side)

    def axis(width: int) -> Tensor:
        powers = torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
        return torch.pow(ROPE_THETA, -powers)

    return axis(widths[0]), axis(widths[1]), axis(widths[2])


def _turns(angles: Tensor) -> Tensor:
    return torch.stack((angles.cos(), angles.sin()), dim=-1).float()


class RotaryTable:
    """Turns of all tokens of blocks of one frame size; from block to block only those in time differ."""

    def __init__(self, frames: int, height: int, width: int, head_dim: int, device: torch.device) -> None:
        """Height and width are in patches."""
        self._time, rows, columns = rope_frequencies(head_dim, device)

        def positions(count: int) -> Tensor:
            return torch.arange(count, dtype=torch.float64, device=device)

        self._frames = positions(frames)
        row_turns = _turns(positions(height)[:, None] * rows)[:, None].expand(-1, width, -1, -1)
        column_turns = _turns(positions(width)[:, None] * columns).expand(height, -1, -1, -1)
        self._space = torch.cat([row_turns, column_turns], dim=-2).flatten(0, 1)  # [h * w, ..., 2]

    def turns(self, starts: Sequence[int]) -> Tensor:
        """Turns [N, L, 1, head_dim / 2, 2] of blocks that begin at latent frames `starts`; L: frame by frame.

        Positions enter as host integers, so building the table never waits for the device, and float64
        angles stay exact for endless sessions.
        """
        frames = torch.stack([self._frames + start for start in starts])  # [N, F]
        time = _turns(frames[..., None] * self._time)  # [N, F, ..., 2]
        shape = (*frames.shape, len(self._space), -1, -1)
        parts = time[:, :, None].expand(shape), self._space.expand(shape)
        return torch.cat(parts, dim=-2).flatten(1, 2)[:, :, None]


def time_shift_turns(num_frames: int, head_dim: int, device: torch.device) -> Tensor:
    """Turns [1, head_dim / 2, 2] that move an already rotated key by `num_frames` in time."""
    time, rows, columns = rope_frequencies(head_dim, device)
    return _turns(torch.cat([time * num_frames, torch.zeros_like(rows), torch.zeros_like(columns)])[None])
