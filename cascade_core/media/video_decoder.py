"""Latents to frames, streamed block by block with explicit per-session state: what its two kinds share.

Wan VAEs are 8x or 16x spatial and 4x temporal. The very first latent frame of a session decodes to one
frame, each later one to four, so of 3 a first block gives 9 frames and every other block 12.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format, convert_conv3d_weight_memory_format


@dataclass
class DecoderState:
    """What one session's decoder remembers. Unusable after an error inside `decode`: open a new one."""

    memory: list[Any]
    """One slot for each layer that looks back in time; None before the first latent frame."""
    num_latents: int = 0
    """Latent frames decoded so far."""


class VideoDecoder(Protocol):
    """Turns latents into frames; one decoder serves many sessions, in any order."""

    def open(self) -> DecoderState:
        """The state of a new session."""
        ...

    def decode(self, state: DecoderState, latents: Tensor) -> Tensor:
        """Decode the session's next latents [F, C, h, w] to uint8 RGB [T, H, W, 3] on the CPU.

        T is 4 * F, less 3 for the first call of a session (see ModelCard.num_frames).
        """
        ...


def suit_processor(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Lay out the weights of convolutions as the CPU's bfloat16 kernels read them, or leave them."""
    if device.type == "cpu" and dtype == torch.bfloat16:
        convert_conv2d_weight_memory_format(model, torch.channels_last)
        convert_conv3d_weight_memory_format(model, torch.channels_last_3d)


def to_pixels(video: Tensor) -> Tensor:
    """[T, 3, H, W] in [-1, 1] on any device -> uint8 [T, H, W, 3] on the CPU."""
    pixels = (video.float() + 1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu()
