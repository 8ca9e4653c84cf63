"""TAEHV: a tiny decoder that is many times faster than the Wan VAE and almost as good to look at.

The layer layout and the key names are those of the public `taew2_1` and `taew2_2` weights
(github.com/madebyollin/taehv). It takes latents of Wan 2.1 or 2.2 as the transformer makes them, without the
VAE's mean and deviation, and looks back one frame per memory layer, so streaming costs nine small tensors per
session.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, relu

from cascade_core.config import ModelCard
from cascade_core.errors import WeightsError
from cascade_core.media.video_decoder import DecoderState, suit_processor, to_pixels
from cascade_core.weights.checkpoint import read_tensors
from cascade_core.weights.weights import load_state

WIDTHS = (256, 128, 64)
"""Channels of the three stages; each doubles height and width."""
STRIDES = (1, 2, 2)
"""Frames out per frame in, for each stage."""
FACTOR = 8
"""Pixels for each latent's side without patches; patches of 2x2 pixels double it."""
FILES = {16: "taew2_1", 48: "taew2_2"}
"""The public weights, by the channels of their latents."""
START_FRAMES = 3
"""Frames at the start of a session that come before the first real one and are dropped: of the first
latent frame's four only the last is kept."""


class Squash(nn.Module):
    """Keeps latents smoothly within -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """A residual block that also sees the frame before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * channels, channels),
            nn.ReLU(),
            _conv(channels, channels),
            nn.ReLU(),
            _conv(channels, channels),
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x and the frames one step before, each [T, C, H, W]."""
        return relu(self.conv(torch.cat([x, before], dim=1)) + x)


class Grow(nn.Module):
    """[T, C, H, W] -> [T * stride, C, 2H, 2W].

    The reference doubles the size before the 1x1 convolution; the two commute, and this order does a
    quarter of the work.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        x = self.conv(x).reshape(-1, channels, height, width)
        return interpolate(x, scale_factor=2, mode="nearest")


class TaehvModel(nn.Module):
    """The decoder half of TAEHV; `decoder.N` are the positions in the public weights."""

    def __init__(self, latent_channels: int = 16, patch_size: int = 1) -> None:
        """The default: `taew2_1`. `taew2_2` has 48 channels, and makes patches of 2x2 pixels."""
        super().__init__()
        self.patch_size = patch_size
        layers: list[nn.Module] = [Squash(), _conv(latent_channels, WIDTHS[0]), nn.ReLU()]
        for width, stride, following in zip(WIDTHS, STRIDES, (*WIDTHS[1:], WIDTHS[-1]), strict=True):
            layers += [MemoryBlock(width) for _ in range(3)]
            # The public layout has an upsampling layer without weights of its own here; Grow does its work.
            layers += [nn.Identity(), Grow(width, stride), _conv(width, following, bias=False)]
        layers += [nn.ReLU(), _conv(WIDTHS[-1], 3 * patch_size**2)]
        self.decoder = nn.Sequential(*layers)
        self.num_memories = sum(isinstance(layer, MemoryBlock) for layer in layers)

    def forward(self, x: Tensor, memory: list[Tensor | None]) -> Tensor:
        """Latents [F, C, h, w] -> frames [4F, 3, 8h, 8w] in [0, 1], 16h and 16w with patches of 2; `memory`
        moves on to the last frame."""
        slot = 0
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                last = memory[slot]
                first_before = torch.zeros_like(x[:1]) if last is None else last
                memory[slot] = x[-1:].clone()  # a view would keep the whole block alive
                x = layer(x, torch.cat([first_before, x[:-1]]))
                slot += 1
            else:
                x = layer(x)
        return (pixel_shuffle(x, self.patch_size) if self.patch_size > 1 else x).clamp(0, 1)


class TaehvDecoder:
    """TAEHV as a VideoDecoder."""

    def __init__(self, model: TaehvModel, device: torch.device, dtype: torch.dtype) -> None:
        """`model` is moved to `device` and `dtype`."""
        self._model = model.to(device, dtype).eval().requires_grad_(False)
        suit_processor(self._model, device, dtype)
        self._device, self._dtype = device, dtype

    def open(self) -> DecoderState:
        return DecoderState([None] * self._model.num_memories)

    def decode(self, state: DecoderState, latents: Tensor) -> Tensor:
        return to_pixels(self.decode_float(state, latents))

    @torch.inference_mode()
    def decode_float(self, state: DecoderState, latents: Tensor) -> Tensor:
        """As `decode`, but [T, 3, H, W] in [-1, 1], on the decoder's device and in its dtype."""
        frames = self._model(latents.to(self._device, self._dtype), state.memory)
        if state.num_latents == 0:
            frames = frames[START_FRAMES:]
        state.num_latents += len(latents)
        video: Tensor = frames * 2 - 1
        return video


def load_taehv(
    card: ModelCard, path: Path | None, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> TaehvDecoder:
    """The card's TAEHV from `taew2_1` or `taew2_2` weights (`.pth` or `.safetensors`), or (None) with random
    weights.

    The encoder's tensors in the file are ignored. Raises WeightsError when the file is absent, damaged, of
    the other VAE's latents, or has missing, surplus or misshapen decoder tensors.
    """
    channels, patch_size = card.transformer.in_channels, card.video.vae_factor // FACTOR
    if path is None:
        return TaehvDecoder(_random_model(channels, patch_size, seed), device, dtype)
    state = {key: value for key, value in read_tensors(path).items() if not key.startswith("encoder.")}
    _check_channels(card, state, path)
    with torch.device("meta"):
        model = TaehvModel(channels, patch_size)
    load_state(model, state, path, device, dtype)
    return TaehvDecoder(model, device, dtype)


def _check_channels(card: ModelCard, state: Mapping[str, Tensor], path: Path) -> None:
    """The mistake that people make; what else does not fit, loading names."""
    first, wanted = state.get("decoder.1.weight"), card.transformer.in_channels
    if first is not None and first.ndim == 4 and first.shape[1] != wanted:
        name = FILES.get(wanted, f"a file for {wanted} channels")
        raise WeightsError(
            f"{path}: for latents of {first.shape[1]} channels, {card.name} makes {wanted}: take {name}"
        )


def _random_model(channels: int, patch_size: int, seed: int) -> TaehvModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TaehvModel(channels, patch_size)


def _conv(channels_in: int, channels_out: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias)
