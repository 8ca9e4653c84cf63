"""Pictures to latents, streamed block by block with explicit state: the inverse of `video_decoder.py`."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass
class EncoderState:
    """What one clip's encoder remembers. Unusable after an error inside `encode`: open a new one."""

    memory: list[Any]
    """One slot for each layer that looks back in time; None before the first picture."""
    num_latents: int = 0
    """Latent frames made so far."""


class VideoEncoder(Protocol):
    """Turns pictures into latents; one encoder serves many clips, in any order."""

    def open_encoder(self) -> EncoderState:
        """The state of a new clip."""
        ...

    def encode(self, state: EncoderState, pictures: Tensor) -> Tensor:
        """Encode the clip's next pictures, uint8 RGB [T, H, W, 3] on the CPU, to latents [F, C, h, w] as the
        transformer makes them, float32 on the CPU.

        T is 4 * F, less 3 for the first call of a clip: its first picture is a latent frame of its own.
        """
        ...


def from_pixels(pictures: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 [T, H, W, 3] -> [T, 3, H, W] in [-1, 1] on the device."""
    return (pictures.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1).to(dtype)


def chunks(video: Tensor, is_first: bool) -> list[Tensor]:
    """What makes one latent frame each: four pictures [4, ...], but the very first alone."""
    first = [video[:1]] if is_first else []
    rest = video[len(first) :]
    assert len(rest) % 4 == 0, f"{len(video)} pictures are no whole latent frames"
    return [*first, *torch.split(rest, 4)] if len(rest) else first
