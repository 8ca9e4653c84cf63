"""The training forward: many noisy blocks at once, in one of two ways.

Block-causal, the computation of the sequential pipeline: each noisy block sees the clean blocks before it,
and itself. Joint, as Wan itself was trained before anyone made it causal: all blocks from `prefix` on have
one noise level and see each other. Blocks of different noise levels never see each other: nothing here
knows of a cascade.
"""

import torch
from torch import Tensor, nn

from cascade_core.attention.rope import rope_angles
from cascade_core.config import TransformerConfig
from cascade_core.model.model import CausalWanModel, Conditioning, Layer


class BlockCausal(nn.Module):
    """A CausalWanModel, for training."""

    def __init__(self, config: TransformerConfig, compiled: bool) -> None:
        """`compiled` makes a step about twice as fast, after minutes of compiling."""
        super().__init__()
        self.model = CausalWanModel(config)
        _initialise(self.model)
        self._run_layer = torch.compile(_run_layer) if compiled else _run_layer

    def forward(
        self, context: Tensor, noisy: Tensor, sigmas: Tensor, embeddings: Tensor, prefix: int | None = None
    ) -> Tensor:
        """Velocity [B, R, K, F, C, h, w] of R noisy copies of the K blocks of B clips.

        context [B, K, F, C, h, w]: what later blocks see of each; noisy [B, R, K, F, C, h, w];
        sigmas [B, R, K]; embeddings [B, K, text_len, text_dim], rows beyond the prompt zero. The first
        `prefix` blocks (None: all) are block-causal, the rest joint.
        """
        model = self.model
        latents = torch.cat([context[:, None], noisy], dim=1)  # [B, 1 + R, K, F, C, h, w]
        num_clips, num_copies, num_blocks, frames, _, height, width = latents.shape
        times = torch.cat([torch.zeros_like(sigmas[:, :1]), 1000 * sigmas], dim=1)
        time, modulation = model.embed_time(times.flatten().tolist())
        starts = [frames * block for block in range(num_blocks)]
        cos, sin = rope_angles(starts, frames, height // 2, width // 2, model.config.head_dim, latents.device)
        repeats = (num_clips * num_copies, 1, 1, 1)
        cond = Conditioning(time, modulation, cos.repeat(repeats), sin.repeat(repeats), ())
        hidden = model.text_embedding(embeddings[:, None].expand(-1, num_copies, -1, -1, -1).flatten(0, 2))
        patches = model.patch_embedding(latents.flatten(0, 2).transpose(1, 2))
        x = patches.flatten(2).transpose(1, 2).float()
        prefix = num_blocks if prefix is None else prefix
        for layer in model.layers:
            x = self._run_layer(layer, x, cond, hidden, num_copies, num_blocks, prefix)
        velocity = model._unpatchify(model.head(x, time), latents.flatten(0, 2).shape)  # float32
        return velocity.view(latents.shape)[:, 1:]


def _run_layer(
    layer: Layer,
    x: Tensor,
    cond: Conditioning,
    hidden: Tensor,
    num_copies: int,
    num_blocks: int,
    prefix: int,
) -> Tensor:
    """One layer on tokens x [B * copies * blocks, L, dim]; copy 0 is the context."""
    query, key, value = (
        tensor.view(-1, num_copies, num_blocks, *tensor.shape[1:]).transpose(3, 4)  # [B, copies, K, H, L, D]
        for tensor in layer.qkv(x, cond)
    )
    views = [(min(n, prefix), n + 1 if n < prefix else num_blocks) for n in range(num_blocks)]
    attended = torch.stack(
        [
            _attend(query[:, :, n], _visible(key, past, end), _visible(value, past, end))
            for n, (past, end) in enumerate(views)
        ],
        dim=2,
    )
    x, text_query = layer.after_attention(x, attended.transpose(3, 4).flatten(0, 2), cond)
    text_key, text_value = layer.cross_attn.key_value(hidden)
    read = _attend(text_query.transpose(1, 2), text_key.transpose(1, 2), text_value.transpose(1, 2))
    return layer.feed_forward(x, read.transpose(1, 2).flatten(2), cond)


def _visible(tensor: Tensor, past: int, end: int) -> Tensor:
    """Blocks 0..past - 1 of the context, and past..end - 1 of each copy's own; [B, copies, H, end L, D]."""
    context = tensor[:, :1, :past].expand(-1, tensor.shape[1], -1, -1, -1, -1)
    return torch.cat([context, tensor[:, :, past:end]], dim=2).transpose(2, 3).flatten(3, 4)


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
