"""Layers of the Wan VAE, streamed, named as those of diffusers' `AutoencoderKLWan`, whose checkpoints they
read. diffusers itself takes seconds to import, and has no public way to decode a video as it comes.

A layer that looks back in time has a slot of a session's memory, for the frames that it saw last.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, scaled_dot_product_attention, silu

Memory = list[Any]
"""A tensor in each slot; None: the layer has seen nothing yet."""


class LooksBack:
    """A layer with a slot."""

    slot: int


def number_slots(module: nn.Module) -> int:
    """Give each layer inside that looks back its slot; how many there are."""
    layers = [layer for layer in module.modules() if isinstance(layer, LooksBack)]
    for slot, layer in enumerate(layers):
        layer.slot = slot
    return len(layers)


class CausalConv(LooksBack, nn.Conv3d):
    """Sees the two frames before those it is given; zeros before a session's first."""

    def __init__(self, in_channels: int, out_channels: int, side: int = 3) -> None:
        super().__init__(in_channels, out_channels, (3, side, side))
        self._sides = (side // 2,) * 4

    def forward(self, input: Tensor, memory: Memory | None = None) -> Tensor:
        """[B, C, T, H, W], the same out; `memory` None: of nothing else."""
        past = None if memory is None else memory[self.slot]
        frames = input if past is None else torch.cat([past, input], dim=2)
        if memory is not None:
            memory[self.slot] = frames[:, :, -2:].clone()
        num_absent = 2 - (frames.shape[2] - input.shape[2])
        seen: Tensor = super().forward(pad(frames, (*self._sides, num_absent, 0)))
        return seen


class RmsNorm(nn.Module):
    """Over the channels, which are dimension 1, at each place."""

    def __init__(self, dim: int, num_axes: int) -> None:
        """`num_axes`: of a place: 3 with time, 2 in a picture."""
        super().__init__()
        self._scale: float = dim**0.5
        self.gamma = nn.Parameter(torch.ones(dim, *(1,) * num_axes))

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = normalize(x.float(), dim=1).to(x.dtype)
        return normed * self._scale * self.gamma


class ResidualBlock(nn.Module):
    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm1 = RmsNorm(in_dim, 3)
        self.conv1 = CausalConv(in_dim, out_dim)
        self.norm2 = RmsNorm(out_dim, 3)
        self.conv2 = CausalConv(out_dim, out_dim)
        self.conv_shortcut = nn.Conv3d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        inner = self.conv1(silu(self.norm1(x)), memory)
        inner = self.conv2(silu(self.norm2(inner)), memory)
        result: Tensor = inner + self.conv_shortcut(x)
        return result


def residual_blocks(in_dim: int, out_dim: int, num: int) -> nn.ModuleList:
    """The first changes the width."""
    return nn.ModuleList(ResidualBlock(in_dim if at == 0 else out_dim, out_dim) for at in range(num))


class Attention(nn.Module):
    """Of each picture's places to one another, with one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RmsNorm(dim, 2)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + of_pictures(self._attend, x)

    def _attend(self, pictures: Tensor) -> Tensor:
        places = self.to_qkv(self.norm(pictures)).flatten(2).transpose(1, 2)  # [B * T, H * W, 3 * C]
        query, key, value = places[:, None].contiguous().chunk(3, dim=-1)
        found = scaled_dot_product_attention(query, key, value)[:, 0].transpose(1, 2)
        projected: Tensor = self.proj(found.reshape(pictures.shape))
        return projected


class MidBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        first = ResidualBlock(dim, dim)
        self.attentions = nn.ModuleList([Attention(dim)])
        self.resnets = nn.ModuleList([first, ResidualBlock(dim, dim)])

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        before, after = self.resnets
        result: Tensor = after(self.attentions[0](before(x, memory)), memory)
        return result


class Upsample(nn.Module):
    """Twice as wide and high; with `in_time` twice as many frames, but the session's first stays one."""

    def __init__(self, dim: int, out_dim: int, in_time: bool) -> None:
        super().__init__()
        larger = nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact")
        self.resample = nn.Sequential(larger, nn.Conv2d(dim, out_dim, 3, padding=1))
        self.time_conv = CausalConv(dim, 2 * dim, side=1) if in_time else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        if self.time_conv is not None:
            if memory[self.time_conv.slot] is None:
                memory[self.time_conv.slot] = x[:, :, :0]  # the first is nobody's past
            else:
                pairs = self.time_conv(x, memory).unflatten(1, (2, -1))  # [B, 2, C, T, H, W]
                x = torch.stack((pairs[:, 0], pairs[:, 1]), 3).flatten(2, 3)
        return of_pictures(self.resample, x)


class Downsample(LooksBack, nn.Module):
    """Half as wide and high; with `in_time` half as many frames, but the clip's first stays one."""

    def __init__(self, dim: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        self.time_conv = nn.Conv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if in_time else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        x = of_pictures(self.resample, x)
        if self.time_conv is None:
            return x
        past, memory[self.slot] = memory[self.slot], x[:, :, -1:].clone()
        if past is None:
            return x
        half: Tensor = self.time_conv(torch.cat([past, x], dim=2))
        return half


def of_pictures(layer: Any, x: Tensor) -> Tensor:
    """What the layer makes of each picture of [B, C, T, H, W], again as a video."""
    batch, _, time, _, _ = x.shape
    pictures: Tensor = layer(x.transpose(1, 2).flatten(0, 1))
    return torch.unflatten(pictures, 0, (batch, time)).transpose(1, 2)


def averaged(x: Tensor, out_dim: int, in_time: bool, in_space: bool) -> Tensor:
    """Half of each axis that is named, of so many channels, without a weight; zeros before a first frame."""
    time, side = (2 if in_time else 1), (2 if in_space else 1)
    x = pad(x, (0, 0, 0, 0, -x.shape[2] % time, 0))
    for axis, size in ((4, side), (3, side), (2, time)):
        x = torch.unflatten(x, axis, (-1, size))
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)  # [B, C * time * side * side, T, H, W]
    return torch.unflatten(x, 1, (out_dim, -1)).mean(dim=2)


def repeated(x: Tensor, out_dim: int, in_time: bool, is_first: bool) -> Tensor:
    """Twice as wide and high, with `in_time` twice as many frames, of so many channels, without a weight."""
    time = 2 if in_time else 1
    x = x.repeat_interleave(out_dim * time * 4 // x.shape[1], dim=1)
    x = torch.unflatten(x, 1, (out_dim, time, 2, 2))
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return x[:, :, time - 1 :] if is_first else x
