"""The Wan VAE: 2.1's, 2.2's, and narrower ones, by the configuration that diffusers' checkpoints carry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from cascade_core.errors import InvalidConfig
from cascade_core.media.wan_layers import (
    CausalConv,
    Downsample,
    Memory,
    MidBlock,
    RmsNorm,
    Upsample,
    averaged,
    number_slots,
    repeated,
    residual_blocks,
)

MEAN: Final[tuple[float, ...]] = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
STD: Final[tuple[float, ...]] = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
"""Of Wan 2.1's latents, for each channel."""
WITHOUT_EFFECT: Final = frozenset(("clip_output", "dropout", "scale_factor_spatial", "scale_factor_temporal"))


@dataclass(frozen=True)
class VaeConfig:
    """As in a `config.json` of diffusers; what none says is Wan 2.1's."""

    base_dim: int = 96
    decoder_base_dim: int | None = None
    """None: as wide as the encoder."""
    z_dim: int = 16
    """Channels of latents."""
    dim_mult: Sequence[int] = (1, 2, 4, 4)
    """Width of each stage, in multiples of the base's."""
    num_res_blocks: int = 2
    attn_scales: Sequence[float] = ()
    temperal_downsample: Sequence[bool] = (False, True, True)
    """Whether a stage halves the frames, too. Spelled as in the files."""
    latents_mean: Sequence[float] = MEAN
    latents_std: Sequence[float] = STD
    is_residual: bool = False
    """Wan 2.2: what a stage samples goes past its layers, too."""
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    """Pixels of a square that become channels of one place."""

    def __post_init__(self) -> None:
        if self.attn_scales:
            raise InvalidConfig("vae.attn_scales: Wan's VAE attends in its middle alone")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "VaeConfig":
        """Of these values, and of them those that have a meaning here."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    @classmethod
    def of_card(cls, values: Mapping[str, Any]) -> "VaeConfig":
        """As `of`. Raises InvalidConfig that names a value without a meaning."""
        names = {field.name for field in fields(cls)} | WITHOUT_EFFECT
        if unknown := sorted(set(values) - names):
            raise InvalidConfig(f"vae: unknown keys {', '.join(unknown)}")
        return cls.of(values)

    @property
    def stages(self) -> list[tuple[int, bool | None]]:
        """From pictures to latents: how wide each is, in multiples, and whether the sampling at its end is in
        time, too; None: it has none."""
        last = len(self.dim_mult) - 1
        return [
            (width, self.temperal_downsample[at] if at < last else None)
            for at, width in enumerate(self.dim_mult)
        ]


class WanAutoencoder(nn.Module):
    """Both halves. What streams through them, and what of their numbers is a latent, is said in `vae.py`."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.post_quant_conv = nn.Conv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)


class Encoder(nn.Module):
    """Patches of pictures to mean and width of a latent."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        dim = config.base_dim
        self.conv_in = CausalConv(config.in_channels, dim)
        self.down_blocks = nn.ModuleList()
        for width, in_time in config.stages:
            out_dim = config.base_dim * width
            if config.is_residual:
                self.down_blocks.append(DownStage(dim, out_dim, config.num_res_blocks, in_time))
            else:
                self.down_blocks.extend(residual_blocks(dim, out_dim, config.num_res_blocks))
                if in_time is not None:
                    self.down_blocks.append(Downsample(out_dim, in_time))
            dim = out_dim
        self.mid_block = MidBlock(dim)
        self.norm_out = RmsNorm(dim, 3)
        self.conv_out = CausalConv(dim, 2 * config.z_dim)
        self.num_slots = number_slots(self)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, C, T, h, w], one latent frame's worth: the next of the clip."""
        x = self.conv_in(x, memory)
        for block in self.down_blocks:
            x = block(x, memory)
        latent: Tensor = self.conv_out(silu(self.norm_out(self.mid_block(x, memory))), memory)
        return latent


class Decoder(nn.Module):
    """A latent frame to patches of pictures."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        base_dim = config.base_dim if config.decoder_base_dim is None else config.decoder_base_dim
        widths = config.dim_mult[::-1]
        samplings = [*config.temperal_downsample[::-1][: len(widths) - 1], None]
        dim = base_dim * widths[0]
        self.conv_in = CausalConv(config.z_dim, dim)
        self.mid_block = MidBlock(dim)
        self.up_blocks = nn.ModuleList()
        for width, in_time in zip(widths, samplings, strict=True):
            out_dim = base_dim * width
            stage = UpStage(dim, out_dim, config.num_res_blocks + 1, in_time, config.is_residual)
            self.up_blocks.append(stage)
            dim = stage.dim
        self.norm_out = RmsNorm(dim, 3)
        self.conv_out = CausalConv(dim, config.out_channels)
        self.num_slots = number_slots(self)

    def forward(self, x: Tensor, memory: Memory, is_first: bool) -> Tensor:
        """[B, C, 1, h, w]: the session's next latent frame, or its first."""
        x = self.mid_block(self.conv_in(x, memory), memory)
        for block in self.up_blocks:
            x = block(x, memory, is_first)
        pictures: Tensor = self.conv_out(silu(self.norm_out(x)), memory)
        return pictures


class DownStage(nn.Module):
    """Of Wan 2.2's encoder."""

    def __init__(self, dim: int, out_dim: int, num_blocks: int, in_time: bool | None) -> None:
        super().__init__()
        self._out_dim, self._in_time = out_dim, in_time
        self.resnets = residual_blocks(dim, out_dim, num_blocks)
        self.downsampler = None if in_time is None else Downsample(out_dim, in_time)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        past = averaged(x, self._out_dim, bool(self._in_time), self._in_time is not None)
        for block in self.resnets:
            x = block(x, memory)
        return past + (x if self.downsampler is None else self.downsampler(x, memory))


class UpStage(nn.Module):
    """Of either decoder: without a residual path, the sampling halves the width."""

    def __init__(
        self, dim: int, out_dim: int, num_blocks: int, in_time: bool | None, is_residual: bool
    ) -> None:
        super().__init__()
        self._out_dim, self._in_time = out_dim, in_time
        self._has_path = is_residual and in_time is not None
        self.resnets = residual_blocks(dim, out_dim, num_blocks)
        self.dim = out_dim if is_residual or in_time is None else out_dim // 2
        sampler = None if in_time is None else Upsample(out_dim, self.dim, in_time)
        if is_residual:
            self.upsampler = sampler
        elif sampler is not None:
            self.upsamplers = nn.ModuleList([sampler])
        self._sampler = (sampler,)
        """Under another name in each kind of checkpoint; a tuple, so that it has no third."""

    def forward(self, x: Tensor, memory: Memory, is_first: bool) -> Tensor:
        past = x
        for block in self.resnets:
            x = block(x, memory)
        (sampler,) = self._sampler
        if sampler is not None:
            x = sampler(x, memory)
        return x + repeated(past, self._out_dim, bool(self._in_time), is_first) if self._has_path else x


def patchify(x: Tensor, side: int | None) -> Tensor:
    """[B, C, T, H, W] -> [B, C * side * side, T, H / side, W / side]."""
    if side is None:
        return x
    x = torch.unflatten(torch.unflatten(x, 4, (-1, side)), 3, (-1, side))  # [B, C, T, h, y, w, x]
    return x.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def unpatchify(x: Tensor, side: int | None) -> Tensor:
    """Back."""
    if side is None:
        return x
    x = torch.unflatten(x, 1, (-1, side, side))  # [B, C, x, y, T, h, w]
    return x.permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)
