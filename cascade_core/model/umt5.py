"""The encoder half of UMT5, for one prompt at a time, named as in transformers' checkpoints.

transformers itself takes seconds to import, and its padding and masks are for batches that nobody makes here.
Source: Chung et al. 2023, "UniMax"; T5's relative positions, in every layer a table of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu, scaled_dot_product_attention


@dataclass(frozen=True)
class Umt5Config:
    """As in a `config.json` of transformers; what none says is the default there."""

    vocab_size: int = 250112
    d_model: int = 512
    d_kv: int = 64
    """Width of a head."""
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    """Tokens further apart than this are all in the last bucket."""
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"

    def __post_init__(self) -> None:
        if self.feed_forward_proj != "gated-gelu":
            raise ValueError(f"feed_forward_proj is {self.feed_forward_proj}; UMT5's is gated-gelu")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Umt5Config":
        """Of these values, and of them those that the encoder has."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


class Umt5(nn.Module):
    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """[num_tokens] -> [num_tokens, d_model]."""
        buckets = relative_buckets(len(tokens), self.config, tokens.device)
        rows: Tensor = self.encoder(self.shared(tokens), buckets)
        return rows


class Embedding(nn.Module):
    """As torch's, without first values, which a checkpoint replaces: to draw them on the meta device takes
    the modules of `torch.compile`, whose import lasts longer than the demo model's loading."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, width))

    def forward(self, indices: Tensor) -> Tensor:
        return embedding(indices, self.weight)


class Stack(nn.Module):
    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_layer_norm = RmsNorm(config)

    def forward(self, rows: Tensor, buckets: Tensor) -> Tensor:
        for block in self.block:
            rows = block(rows, buckets)
        normed: Tensor = self.final_layer_norm(rows)
        return normed


class Block(nn.Module):
    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(config), FeedForwardLayer(config)])

    def forward(self, rows: Tensor, buckets: Tensor) -> Tensor:
        attention, feed_forward = self.layer
        result: Tensor = feed_forward(attention(rows, buckets))
        return result


class AttentionLayer(nn.Module):
    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.SelfAttention = Attention(config)
        self.layer_norm = RmsNorm(config)

    def forward(self, rows: Tensor, buckets: Tensor) -> Tensor:
        result: Tensor = rows + self.SelfAttention(self.layer_norm(rows), buckets)
        return result


class FeedForwardLayer(nn.Module):
    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.DenseReluDense = FeedForward(config)
        self.layer_norm = RmsNorm(config)

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = rows + self.DenseReluDense(self.layer_norm(rows))
        return result


class Attention(nn.Module):
    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self._num_heads = config.num_heads
        inner = config.num_heads * config.d_kv
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.relative_attention_bias = Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, rows: Tensor, buckets: Tensor) -> Tensor:
        query, key, value = (
            part(rows).unflatten(1, (self._num_heads, -1)).transpose(0, 1)[None]  # [1, H, L, D]
            for part in (self.q, self.k, self.v)
        )
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1)[None]  # [1, H, L, L]
        found = scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=1.0
        )  # T5 scales nothing
        result: Tensor = self.o(found[0].transpose(0, 1).flatten(1))
        return result


class FeedForward(nn.Module):
    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(config.d_model, config.d_ff, bias=False) for _ in range(2))
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.wo(gelu(self.wi_0(rows), approximate="tanh") * self.wi_1(rows))
        return result


class RmsNorm(nn.Module):
    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self._epsilon = config.layer_norm_epsilon
        self.weight = nn.Parameter(torch.ones(config.d_model))

    def forward(self, rows: Tensor) -> Tensor:
        wide = rows.float() if rows.dtype != torch.float64 else rows
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._epsilon)
        return self.weight * (rows * scale).to(rows.dtype)


def relative_buckets(length: int, config: Umt5Config, device: torch.device) -> Tensor:
    """[L, L]: the bucket of the key's place as seen from the query's. Half of them lie ahead; half of each
    half have one distance each, the others grow with the distance."""
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    places = torch.arange(length, device=device)
    ahead = places[None] - places[:, None]
    distance = ahead.abs()
    growth = torch.log(distance.float() / exact) / math.log(config.relative_attention_max_distance / exact)
    far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + half * (ahead > 0)
