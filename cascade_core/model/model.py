"""The causal Wan diffusion transformer, for any dimensions, under its original key names.

The model computes N blocks side by side, each at its own timestep, position and prompt. Its layers take rows
of tokens: the blocks or, where frames have timesteps of their own, all their frames. It knows neither ranks
nor caches: self-attention is a function given to `forward`, so that parallelism is put on from outside.
Source: Wan 2.1 and its causal descendants (Self-Forcing, LongLive), whose maths it reproduces.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade_core.attention.attention import KeyValue
from cascade_core.attention.rope import rotate
from cascade_core.config import TransformerConfig
from cascade_core.model.low_rank import NONE, LayerLow, Low, LowRanks, beside, of_layer

PATCH = (1, 2, 2)

TextCache = tuple[tuple[Tensor, Tensor], ...]
"""Per layer the cross-attention keys and values of one prompt, each [1, H, text_len, D]."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q, k, v), each [N, L, H, D], to the attention output [N, L, H, D]."""

Send = Callable[[Tensor, Tensor], None]
"""Takes a layer's keys and values, each [N, L, H, D], before its queries are computed."""


@dataclass(frozen=True)
class Conditioning:
    """What a forward needs besides latents, for N rows: blocks, or all frames of all blocks."""

    time: Tensor
    """[N, dim], float32; see `CausalWanModel.embed_time`."""
    modulation: Tensor
    """[layers, 6, N, 1, dim]; see `CausalWanModel.embed_time`."""
    turns: Tensor
    """[N, L, 1, head_dim / 2, 2], float32; see `RotaryTable`."""
    text: tuple[TextCache, ...]
    """One per row; blocks in flight can straddle a prompt switch."""
    low: LowRanks | None = None
    """What LoRAs add, to each row its own; None: nothing."""


def keep_float32(name: str) -> bool:
    """Parameters that stay in float32 whatever the compute type: small, and sensitive."""
    return name.endswith("modulation") or name.startswith("time_")


def regrouped(x: Tensor, count: int) -> Tensor:
    """The same tokens [N, L, ...] in as many rows, [count, N * L / count, ...]."""
    return x.reshape(count, -1, *x.shape[2:])


def timestep_embedding(timesteps: Tensor, freq_dim: int) -> Tensor:
    """Sinusoidal embedding [N, freq_dim] of timesteps [N], cosines first, computed in float64."""
    half = freq_dim // 2
    steps = torch.arange(half, dtype=torch.float64, device=timesteps.device)
    angles = timesteps.double()[:, None] * torch.pow(10000.0, -steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm of x [N, L, dim], times `scale`, plus `shift`, both [N, 1, dim]."""
    dim = x.shape[-1:]
    if len(scale) == 1:  # one kernel, and nothing is rounded in between
        return F.layer_norm(x, dim, scale.flatten(), shift.flatten(), eps)
    return torch.addcmul(shift, F.layer_norm(x, dim, eps=eps), scale)


class RmsNorm(nn.RMSNorm):
    """Root-mean-square norm over the full width (not per head)."""

    def forward(self, x: Tensor) -> Tensor:
        # They differ in type under autocast, in training, where the fused kernel refuses that.
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """The projections of one attention; the attention itself happens outside."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RmsNorm(config.dim, config.eps)
        self.norm_k = RmsNorm(config.dim, config.eps)

    def query(self, x: Tensor, low: Low | None) -> Tensor:
        query: Tensor = self.norm_q(beside(self.q, x, low))
        return query.view(*x.shape[:2], self.heads, -1)  # [N, L, H, D]

    def key_value(
        self, x: Tensor, low_k: Low | None = None, low_v: Low | None = None
    ) -> tuple[Tensor, Tensor]:
        key, value = self.norm_k(beside(self.k, x, low_k)), beside(self.v, x, low_v)
        shape = (*x.shape[:2], self.heads, -1)
        return key.view(shape), value.view(shape)


class Layer(nn.Module):
    """One transformer layer in two halves, before and after self-attention.

    Its norms, sums and products of elements write what they read, in the compute type: each is one kernel
    that computes in float32 inside.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, self.eps = config.dim, config.eps
        self.self_attn = Attention(config)
        self.norm3 = nn.LayerNorm(dim, self.eps)
        self.cross_attn = Attention(config)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def qkv(self, x: Tensor, modulation: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, of tokens x [N, L, dim]; modulation [6, N, 1, dim]."""
        hidden, key, value = self.key_value(x, modulation, turns)
        return self.query(hidden, turns), key, value

    def key_value(
        self, x: Tensor, modulation: Tensor, turns: Tensor, low: LayerLow = NONE
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `query` takes, rotated keys, and values."""
        hidden = modulated_norm(x, modulation[0], modulation[1], self.eps)
        key, value = self.self_attn.key_value(hidden, low.get("self_attn.k"), low.get("self_attn.v"))
        return hidden, rotate(key, turns), value

    def query(self, hidden: Tensor, turns: Tensor, low: LayerLow = NONE) -> Tensor:
        """Rotated queries."""
        return rotate(self.self_attn.query(hidden, low.get("self_attn.q")), turns)

    def update(
        self,
        x: Tensor,
        attended: Tensor,
        modulation: Tensor,
        texts: list[KeyValue],
        low: LayerLow = NONE,
    ) -> Tensor:
        """Tokens [N, L, dim] after self-attention output [N, L, H, D], text and feed-forward."""
        x, query = self.after_attention(x, attended, modulation, low)
        return self.feed_forward(x, self.read_text(query, texts), modulation, low)

    def after_attention(
        self, x: Tensor, attended: Tensor, modulation: Tensor, low: LayerLow = NONE
    ) -> tuple[Tensor, Tensor]:
        """Tokens with the attention output added, and their queries [N, L, H, D] to the text."""
        added = beside(self.self_attn.o, attended.flatten(2), low.get("self_attn.o"))
        x = torch.addcmul(x, added, modulation[2])
        return x, self.cross_attn.query(self.norm3(x), low.get("cross_attn.q"))

    def read_text(self, query: Tensor, texts: list[KeyValue]) -> Tensor:
        """Cross-attention output [N, L, dim]; neighbouring blocks of one prompt share a call."""
        outputs, first = [], 0
        for _, group in groupby(texts, key=id):
            key, value = (members := list(group))[0]
            part = query[first : first + len(members)].flatten(0, 1)[None].transpose(1, 2)  # [1, H, n*L, D]
            attended = F.scaled_dot_product_attention(part, key, value).transpose(1, 2)
            outputs.append(attended.reshape(len(members), query.shape[1], -1))
            first += len(members)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def feed_forward(self, x: Tensor, read: Tensor, modulation: Tensor, low: LayerLow = NONE) -> Tensor:
        """Tokens with what was read from the text, and then the feed-forward, added."""
        x = x + beside(self.cross_attn.o, read, low.get("cross_attn.o"))
        hidden = modulated_norm(x, modulation[3], modulation[4], self.eps)
        wide = self.ffn[1](beside(self.ffn[0], hidden, low.get("ffn.0")))
        return torch.addcmul(x, beside(self.ffn[2], wide, low.get("ffn.2")), modulation[5])


class Head(nn.Module):
    """Tokens to patches of velocity."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.in_channels * math.prod(PATCH))
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = (self.modulation + time[:, None]).chunk(2, dim=1)  # [N, 1, dim]
        patches: Tensor = self.head(modulated_norm(x, shift.to(x.dtype), (1 + scale).to(x.dtype), self.eps))
        return patches


class CausalWanModel(nn.Module):
    """Velocity of N blocks of noisy latents."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, kernel_size=PATCH, stride=PATCH)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.head = Head(config)

    @property
    def layers(self) -> Iterable[Layer]:
        """The transformer layers (`blocks` in the checkpoints; a block here is latent frames)."""
        return (layer for layer in self.blocks if isinstance(layer, Layer))

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.patch_embedding.weight.device

    def embed_time(self, timesteps: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Of timesteps in 0..1000, embeddings [N, dim], float32, and all layers' modulations
        [layers, 6, N, 1, dim] in the compute type: shift, 1 + scale and gate, of self-attention and of the
        feed-forward."""
        steps = torch.tensor(timesteps, dtype=torch.float64, device=self.device)
        time = self.time_embedding(timestep_embedding(steps, self.config.freq_dim))
        projected = self.time_projection(time).unflatten(1, (6, -1)).transpose(0, 1)  # [6, N, dim]
        own = torch.cat([layer.modulation for layer in self.layers])  # [layers, 6, dim]
        one = torch.tensor([0.0, 1.0, 0.0] * 2, device=self.device)
        modulation = own[:, :, None] + projected + one[:, None, None]
        return time, modulation[:, :, :, None].to(self.dtype)

    def embed_text(self, embedding: Tensor, low: LowRanks | None = None) -> TextCache:
        """Text cache of a prompt embedding [num_tokens <= text_len, text_dim], with what LoRAs add to it.

        Rows up to text_len are zeros, and they are attended: the reference has no mask.
        """
        padding = self.config.text_len - embedding.shape[0]
        padded = F.pad(embedding.to(self.device, self.dtype), (0, 0, 0, padding))
        hidden = self.text_embedding(padded[None])

        def cache(layer: Layer, low: LayerLow) -> tuple[Tensor, Tensor]:
            key, value = layer.cross_attn.key_value(hidden, low.get("cross_attn.k"), low.get("cross_attn.v"))
            return key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()

        return tuple(cache(layer, of_layer(low, index)) for index, layer in enumerate(self.layers))

    def forward(
        self, latents: Tensor, cond: Conditioning, attend: Attend, send: Send | None = None
    ) -> Tensor:
        """Velocity [N, F, C, h, w] in float32 of noisy latents [N, F, C, h, w]."""
        num_blocks, num_rows = len(latents), len(cond.time)
        patches = self.patch_embedding(latents.to(self.dtype).transpose(1, 2))  # [N, dim, F, h/2, w/2]
        x = patches.flatten(2).transpose(1, 2).contiguous()  # [N, L, dim]
        x = regrouped(x, num_rows)
        for index, layer in enumerate(self.layers):
            modulation, low = cond.modulation[index], of_layer(cond.low, index)
            hidden, *key_value = layer.key_value(x, modulation, cond.turns, low)
            key, value = (regrouped(each, num_blocks) for each in key_value)
            if send:
                send(key, value)
            query = regrouped(layer.query(hidden, cond.turns, low), num_blocks)
            attended = regrouped(attend(index, query, key, value), num_rows)
            x = layer.update(x, attended, modulation, [text[index] for text in cond.text], low)
        return self._unpatchify(self.head(x, cond.time), latents.shape)

    def _unpatchify(self, x: Tensor, shape: torch.Size) -> Tensor:
        blocks, frames, channels, height, width = shape
        x = x.float().view(blocks, frames, height // 2, width // 2, 2, 2, channels)
        return x.permute(0, 1, 6, 2, 4, 3, 5).reshape(shape)
