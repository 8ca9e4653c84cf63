"""The training forward: many noisy blocks at once, and which of them see which.

Three patterns. *Sequential*, the computation of the sequential pipeline: a noisy block sees the clean blocks
before it, and itself. *Causal*: a block sees the blocks before it as noisy as they are, and itself. *Joint*:
blocks see each other. None of them knows of a cascade.
"""

import torch
from torch import Tensor, nn

from cascade_core.attention.rope import RotaryTable
from cascade_core.config import TransformerConfig
from cascade_core.model.model import CausalWanModel, Layer
from cascade_core.ranks.compiling import compile_layer

View = tuple[slice, slice]
"""Which blocks of the clean context, and which of the same noisy copy, one block sees."""

NOTHING = slice(0, 0)


def sequential_views(num_blocks: int, window: int) -> list[View]:
    """`window` counts blocks, the block itself included, here and below."""
    return [(slice(max(0, n + 1 - window), n), slice(n, n + 1)) for n in range(num_blocks)]


def causal_views(num_blocks: int, window: int) -> list[View]:
    return [(NOTHING, slice(max(0, n + 1 - window), n + 1)) for n in range(num_blocks)]


def joint_views(num_blocks: int, prefix: int) -> list[View]:
    """The first `prefix` blocks, which are clean, see nothing behind them."""
    return [(NOTHING, slice(0, n + 1 if n < prefix else num_blocks)) for n in range(num_blocks)]


class BlockCausal(nn.Module):
    """A CausalWanModel, for training."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.model = CausalWanModel(config)
        _initialise(self.model)

    def compile(self) -> None:
        """Make steps faster, after a minute of compiling; the attentions, which differ, stay as they are."""
        for layer in self.model.layers:
            compile_layer(layer)

    def forward(
        self,
        noisy: Tensor,
        sigmas: Tensor,
        embeddings: Tensor,
        views: list[View],
        context: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, R, K, F, C, h, w] of R noisy copies of the K blocks of B clips.

        noisy [B, R, K, F, C, h, w]; sigmas [B, R, K]; embeddings [B, K, text_len, text_dim], rows beyond the
        prompt zero; views: what each block sees; context [B, K, F, C, h, w]: the clean blocks.
        """
        model = self.model
        num_noisy, latents = noisy.shape[1], noisy
        if context is not None:
            latents = torch.cat([context[:, None], noisy], dim=1)  # [B, 1 + R, K, F, C, h, w]
            sigmas = torch.cat([torch.zeros_like(sigmas[:, :1]), sigmas], dim=1)
        num_clips, num_copies, num_blocks, frames, _, height, width = latents.shape
        time, modulation = model.embed_time((1000 * sigmas).flatten().tolist())
        starts = [frames * block for block in range(num_blocks)]
        positions = RotaryTable(frames, height // 2, width // 2, model.config.head_dim, latents.device)
        turns = positions.turns(starts).repeat((num_clips * num_copies, 1, 1, 1, 1))
        hidden = model.text_embedding(embeddings.flatten(0, 1))
        patches = model.patch_embedding(latents.flatten(0, 2).transpose(1, 2))
        x = patches.flatten(2).transpose(1, 2).float()
        for layer, own in zip(model.layers, modulation, strict=True):
            x = _run_layer(layer, x, own, turns, hidden, num_copies, views)
        velocity = model._unpatchify(model.head(x, time), latents.flatten(0, 2).shape)  # float32
        return velocity.view(latents.shape)[:, -num_noisy:]


def _run_layer(
    layer: Layer,
    x: Tensor,
    modulation: Tensor,
    turns: Tensor,
    hidden: Tensor,
    num_copies: int,
    views: list[View],
) -> Tensor:
    """One layer on tokens x [B * copies * blocks, L, dim]; a context is copy 0."""
    query, key, value = (
        tensor.view(-1, num_copies, len(views), *tensor.shape[1:]).transpose(3, 4)  # [B, copies, K, H, L, D]
        for tensor in layer.qkv(x, modulation, turns)
    )
    attended = torch.stack(
        [_attend(query[:, :, n], _visible(key, view), _visible(value, view)) for n, view in enumerate(views)],
        dim=2,
    )
    x, text_query = layer.after_attention(x, attended.transpose(3, 4).flatten(0, 2), modulation)
    text_key, text_value = (
        tensor.view(-1, 1, len(views), *tensor.shape[1:]).transpose(3, 4)  # copies share a clip's prompts
        for tensor in layer.cross_attn.key_value(hidden)
    )
    text_query = text_query.view(-1, num_copies, len(views), *text_query.shape[1:]).transpose(3, 4)
    read = _attend(text_query, text_key, text_value)  # [B, copies, K, H, L, D]
    return layer.feed_forward(x, read.transpose(3, 4).flatten(0, 2).flatten(2), modulation)


def _visible(tensor: Tensor, view: View) -> Tensor:
    """The keys or values that a block sees of [B, copies, K, H, L, D]: [B, copies, H, blocks * L, D]."""
    clean, own = view
    seen = tensor[:, :, own]
    if clean != NOTHING:
        context = tensor[:, :1, clean].expand(-1, tensor.shape[1], -1, -1, -1, -1)
        seen = torch.cat([context, seen], dim=2)
    return seen.transpose(2, 3).flatten(3, 4)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention over [..., L, D], spelled out: on the CPU its backward is far faster than the fused one."""
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    attended: Tensor = weights.softmax(dim=-1) @ value
    return attended


def _initialise(model: CausalWanModel) -> None:
    """Wan's start: small modulations, nothing predicted."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("modulation"):
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        model.head.head.weight.zero_()
        model.head.head.bias.zero_()
