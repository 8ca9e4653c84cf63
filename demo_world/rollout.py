"""The model's own sequential videos, batched: what inference computes, with a KV cache, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade_core.attention.rope import RotaryTable
from cascade_core.model.model import CausalWanModel, Conditioning, TextCache
from cascade_core.model.sampler import clean_estimate, renoise


@dataclass(frozen=True)
class Rollout:
    """Own continuations of B clips."""

    clean: Tensor
    """[B, K, F, C, h, w]; the first block is the one that was given."""
    inputs: Tensor
    """[B, P, K, F, C, h, w]: what each of the P denoising passes was given."""


@torch.no_grad()
def roll_out(
    model: CausalWanModel,
    first: Tensor,
    embeddings: Tensor,
    noise: Tensor,
    sigmas: Sequence[float],
    window: int,
) -> Rollout:
    """Go on from the clean blocks `first` [B, F, C, h, w] with the prompts of `embeddings` [B, K, T, D].

    noise [B, P, K, F, C, h, w] for the passes with noise levels `sigmas`, of which the last is the context
    pass; `window` blocks see each other.
    """
    shown = [[model.embed_text(prompt) for prompt in clip] for clip in embeddings]
    cache = _Cache(model, window - 1)
    *denoising, context_sigma = sigmas
    clean, inputs = [first], [noise[:, :, 0]]
    for block in range(embeddings.shape[1]):
        texts = [clip[block] for clip in shown]
        if block > 0:
            noisy = noise[:, 0, block]
            given = [noisy]
            for index, sigma in enumerate(denoising):
                estimate = clean_estimate(noisy, cache.run(noisy, sigma, block, texts), sigma)
                if index + 1 < len(denoising):
                    noisy = renoise(estimate, noise[:, index + 1, block], denoising[index + 1])
                    given.append(noisy)
            clean.append(estimate)
            inputs.append(torch.stack(given, dim=1))
        if block + 1 < embeddings.shape[1]:
            cache.run(clean[-1], context_sigma, block, texts, keep=True)
    return Rollout(torch.stack(clean, dim=1), torch.stack(inputs, dim=2))


class _Cache:
    """Keys and values of the clean blocks of B clips, and passes that see them."""

    def __init__(self, model: CausalWanModel, num_blocks: int) -> None:
        self._model = model
        self._num_blocks = num_blocks
        self._layers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in model.layers]

    def run(
        self, latents: Tensor, sigma: float, block: int, texts: list[TextCache], keep: bool = False
    ) -> Tensor:
        """Velocity of block number `block` of each clip [B, F, C, h, w]; `keep` its keys and values."""
        model = self._model
        num_clips, frames, _, height, width = latents.shape
        time, modulation = model.embed_time([1000 * sigma] * num_clips)
        size = frames, height // 2, width // 2
        turns = RotaryTable(*size, model.config.head_dim, latents.device).turns([block * frames])

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            seen = [*self._layers[layer], (key, value)]
            keys, values = (torch.cat(parts, dim=1).transpose(1, 2) for parts in zip(*seen, strict=True))
            if keep:
                self._layers[layer] = seen[-self._num_blocks :]
            return F.scaled_dot_product_attention(query.transpose(1, 2), keys, values).transpose(1, 2)

        velocity: Tensor = model(latents, Conditioning(time, modulation, turns, tuple(texts)), attend)
        return velocity
