"""The kinds of training steps of the transformer, each a loss of flow matching. In the family's order:

- `joint`: the blocks of a clip have one noise level and see each other, as Wan itself was trained.
- `independent`: each block draws a noise level of its own, whatever the others drew, and sees the blocks
  before it as noisy as they are (the ODE initialisation of Self-Forcing).
- `sequential`: each block sees clean blocks before it, and itself: the sequential pipeline, on true context.
- `rollout`: the same on the model's own sequential video, a true first block's continuation, with its own
  inputs; gradients go through one pass of each block, not through those that led there (Self-Forcing).

No step shows a cascade's pattern: no noise level ever follows from a block's place in the row.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from cascade_core.config import ModelCard
from cascade_core.model.sampler import pass_sigmas
from demo_world.block_causal import BlockCausal, View, causal_views, joint_views, sequential_views
from demo_world.dataset import LATE_SHARE, Batch, Dataset
from demo_world.rollout import roll_out

Kind = Literal["joint", "independent", "sequential", "rollout"]

COPIES = 2
"""Noisy versions of each clip that share one clean context."""
EXACT_SHARE = 0.7
"""Share of the noise levels that are those of inference; the rest is continuous."""
CLEAN_SHARE = 0.2
"""Share of the blocks of an independent step that are not noisy at all."""
CONTEXT_SIGMA = 0.15
"""The most noise in the context of a sequential step; half of them have none."""
ON_COURSE = 0.15
"""The most that an own block may be off the true one, squared, for blocks after it to learn from the truth:
its shape is then two pixels from the place. After one that is further off the truth is another video."""
UNKNOWN_SHARE = 0.02
"""Share of the words that become the unknown one, so that a prompt with a strange word still works."""


class DemoModel(nn.Module):
    """What is trained together."""

    def __init__(self, card: ModelCard, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.blocks = BlockCausal(card.transformer)
        self.text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer),
                d_model=card.transformer.text_dim,
                d_kv=16,
                d_ff=128,
                num_layers=2,
                num_heads=4,
                relative_attention_num_buckets=16,
                relative_attention_max_distance=32,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
            )
        )
        self.tokenizer = tokenizer
        self.text_len = card.transformer.text_len

    def embed(self, prompts: list[str], unknown: torch.Generator | None = None) -> Tensor:
        """Embeddings [len(prompts), text_len, text_dim]; rows beyond a prompt are zero, as at inference."""
        batch = self.tokenizer(prompts, padding="max_length", max_length=self.text_len, return_tensors="pt")
        tokens, mask = batch.input_ids, batch.attention_mask
        if unknown is not None:
            strange = torch.rand(tokens.shape, generator=unknown) < UNKNOWN_SHARE
            words = tokens > self.tokenizer.unk_token_id
            tokens = tokens.masked_fill(strange & words, self.tokenizer.unk_token_id)
        rows: Tensor = self.text_encoder(tokens, attention_mask=mask).last_hidden_state * mask[..., None]
        return rows


@dataclass(frozen=True)
class Steps:
    """Losses on stretches of `dataset`; everything random comes from the generator that is given."""

    model: DemoModel
    card: ModelCard
    dataset: Dataset

    def loss(self, kind: Kind, num_rows: int, num_blocks: int, generator: torch.Generator) -> Tensor:
        """Of a batch of about `num_rows` noisy and clean blocks in all, in stretches of `num_blocks`."""
        match kind:
            case "joint":
                return self._joint(num_rows // num_blocks, num_blocks, generator)
            case "independent":
                return self._independent(num_rows // num_blocks, num_blocks, generator)
            case "sequential":
                return self._sequential(num_rows // num_blocks // (1 + COPIES), num_blocks, generator)
            case "rollout":
                return self._rollout(num_rows // num_blocks // (1 + COPIES), num_blocks, generator)

    def _joint(self, num_clips: int, num_blocks: int, generator: torch.Generator) -> Tensor:
        prefix = int(torch.randint(3, (), generator=generator))
        # Without a clean block only a clip's own beginning says where things are.
        batch = self.dataset.batch(generator, num_clips, num_blocks, LATE_SHARE if prefix else 0.0)
        sigmas = self._draw_sigmas((num_clips, 1, 1), generator).repeat(1, 1, num_blocks)
        sigmas[:, :, :prefix] = 0
        return self._noisy_loss(batch, sigmas, joint_views(num_blocks, prefix), generator)

    def _independent(self, num_clips: int, num_blocks: int, generator: torch.Generator) -> Tensor:
        batch = self.dataset.batch(generator, num_clips, num_blocks)
        sigmas = self._draw_sigmas((num_clips, 1, num_blocks), generator)
        sigmas[torch.rand(sigmas.shape, generator=generator) < CLEAN_SHARE] = 0
        sigmas[:, 0] *= batch.has_past  # a first block that nothing explains is shown as it is
        return self._noisy_loss(batch, sigmas, causal_views(num_blocks, self._window), generator)

    def _sequential(self, num_clips: int, num_blocks: int, generator: torch.Generator) -> Tensor:
        batch = self.dataset.batch(generator, num_clips, num_blocks)
        sigmas = self._draw_sigmas((num_clips, COPIES, num_blocks), generator)
        level = torch.rand(num_clips, 1, 1, 1, 1, 1, generator=generator) * CONTEXT_SIGMA
        level *= torch.rand(level.shape, generator=generator) < 0.5
        context = (1 - level) * batch.latents + level * _normal(batch.latents.shape, generator)
        views = sequential_views(num_blocks, self._window)
        return self._noisy_loss(batch, sigmas * batch.has_past[:, None], views, generator, context)

    def _rollout(self, num_clips: int, num_blocks: int, generator: torch.Generator) -> Tensor:
        """A clip's first block says how it goes on, so the truth is what the own video should have been.

        That holds until the own video is somewhere else.
        """
        batch = self.dataset.batch(generator, num_clips, num_blocks)
        embeddings = self._embeddings(batch, generator)
        sigmas = pass_sigmas(self.card.sampling)
        noise = _normal((num_clips, len(sigmas) - 1, *batch.latents.shape[1:]), generator)
        own = roll_out(self.model.blocks.model, batch.latents[:, 0], embeddings, noise, sigmas, self._window)
        torch.clear_autocast_cache()  # what was cast without gradients must not be used with them
        passes = torch.rand(num_clips, len(sigmas) - 1, num_blocks, generator=generator).argsort(dim=1)
        passes = passes[:, :COPIES]  # [B, R, K]
        off_by = (own.clean - batch.latents).square().mean(dim=(2, 3, 4, 5))  # [B, K]
        on_course = (off_by < ON_COURSE).cumprod(dim=1).roll(1, dims=1)  # up to the block before
        on_course[:, 0] = 0  # the true one
        levels = torch.tensor(sigmas)[passes] * on_course[:, None]
        noisy = own.inputs.gather(1, _wide(passes).expand(-1, -1, -1, *own.inputs.shape[3:]))
        views = sequential_views(num_blocks, self._window)
        target = (noisy - batch.latents[:, None]) / _wide(levels.clamp(min=0.1))
        velocity = self.model.blocks(noisy, levels, embeddings, views, own.clean)
        return _mean_error(velocity, target, levels)

    @property
    def _window(self) -> int:
        return self.card.window.window_blocks

    def _noisy_loss(
        self,
        batch: Batch,
        sigmas: Tensor,
        views: list[View],
        generator: torch.Generator,
        context: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the velocity of the blocks that have noise; sigmas [B, R, K]."""
        clean = batch.latents[:, None]
        noise = _normal((*sigmas.shape, *clean.shape[3:]), generator)
        noisy = (1 - _wide(sigmas)) * clean + _wide(sigmas) * noise
        embeddings = self._embeddings(batch, generator)
        velocity = self.model.blocks(noisy, sigmas, embeddings, views, context)
        return _mean_error(velocity, noise - clean, sigmas)

    def _embeddings(self, batch: Batch, generator: torch.Generator) -> Tensor:
        rows = self.model.embed(batch.prompts, generator)
        return rows.view(*batch.has_past.shape, *rows.shape[1:])

    def _draw_sigmas(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise levels: mostly those of inference, some from the whole shifted range."""
        exact, shift = torch.tensor(pass_sigmas(self.card.sampling)[:-1]), self.card.sampling.shift
        chosen = exact[torch.randint(len(exact), shape, generator=generator)]
        linear = torch.rand(shape, generator=generator)
        continuous = shift * linear / (1 + (shift - 1) * linear)
        is_exact = torch.rand(shape, generator=generator) < EXACT_SHARE
        return torch.where(is_exact, chosen, continuous)


def _mean_error(velocity: Tensor, target: Tensor, sigmas: Tensor) -> Tensor:
    error = (velocity - target).square().mean(dim=(3, 4, 5, 6))  # [B, R, K]
    counts = (sigmas > 0).float()
    mean: Tensor = (error * counts).sum() / counts.sum().clamp(min=1)
    return mean


def _wide(values: Tensor) -> Tensor:
    return values[..., None, None, None, None]


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)
