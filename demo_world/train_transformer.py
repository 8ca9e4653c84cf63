"""Training of the transformer and the text encoder, together: flow matching.

Block-causal steps: what a block meets in the *sequential* pipeline, clean context before it, at times with a
little noise or the model's own estimate in its place, so that self-made history is tolerated. Joint steps:
all blocks at one noise level see each other, as in the bidirectional training that every real model of the
family comes from. Never a cascade: no step shows a block to one of another noise level, but for clean ones.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from cascade_core.config import ModelCard
from cascade_core.model.sampler import pass_sigmas
from demo_world.block_causal import BlockCausal
from demo_world.dataset import LATE_SHARE, Batch, Dataset
from demo_world.training import train

NUM_STEPS = 4800
CLIPS = 6
COPIES = 2
"""Noisy versions of each clip that share one clean context."""
SHORT, LONG = 4, 7
"""Blocks of a training clip; the last quarter of the steps sees whole windows."""
LONG_FROM, OWN_FROM = 0.8, 0.55
"""Shares of the run from which on clips are long, and contexts may be the model's own."""
JOINT_FROM = 0.5
"""Share of the run from which on every second step is joint."""
OWN_SHARE = 0.4
EXACT_SHARE = 0.7
"""Of the noise levels: those of inference; the rest is continuous."""
CONTEXT_SIGMA = 0.15
UNKNOWN_SHARE = 0.02
"""Of the words: replaced by the unknown one, so that a prompt with a strange word still works."""
MUON_LR, ADAMW_LR = 4e-3, 2e-3


class DemoModel(nn.Module):
    """What is trained together."""

    def __init__(self, card: ModelCard, tokenizer: PreTrainedTokenizerFast, compiled: bool) -> None:
        super().__init__()
        self.blocks = BlockCausal(card.transformer, compiled)
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


def train_transformer(
    card: ModelCard,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    compiled: bool,
    seed: int = 0,
    num_steps: int = NUM_STEPS,
) -> DemoModel:
    """The trained model; its state is kept in `folder`."""
    torch.manual_seed(seed)
    model = DemoModel(card, tokenizer, compiled)
    sigmas = torch.tensor(pass_sigmas(card.sampling)[:-1])

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        progress = step / num_steps
        num_blocks = LONG if progress >= LONG_FROM else SHORT
        num_clips = CLIPS * SHORT // num_blocks
        if progress >= JOINT_FROM and step % 2:
            prefix = _prefix(step, num_blocks)
            # Without a clean block only a clip's own beginning says where things are.
            batch = dataset.batch(generator, num_clips, num_blocks, 0.0 if prefix == 0 else LATE_SHARE)
            return _joint_loss(model, batch, prefix, generator, sigmas, card.sampling.shift)
        batch = dataset.batch(generator, num_clips, num_blocks)
        return _causal_loss(model, batch, generator, sigmas, card.sampling.shift, progress >= OWN_FROM)

    train(
        model,
        loss,
        num_steps=num_steps,
        muon_lr=MUON_LR,
        adamw_lr=ADAMW_LR,
        state_file=folder / "transformer.pt",
    )
    return model


def _prefix(step: int, num_blocks: int) -> int:
    """Clean blocks before the joint ones: none or one, in a whole window two."""
    return 2 if num_blocks == LONG else step // 2 % 2


def _joint_loss(
    model: DemoModel,
    batch: Batch,
    prefix: int,
    generator: torch.Generator,
    exact: Tensor,
    shift: float,
) -> Tensor:
    num_clips, num_blocks = batch.has_past.shape
    sigmas = _draw_sigmas((num_clips, COPIES, num_blocks), generator, exact, shift)
    sigmas[:, :, prefix:] = sigmas[:, :, prefix : prefix + 1]
    return _loss(model, batch, batch.latents, sigmas, _embeddings(model, batch, generator), generator, prefix)


def _causal_loss(
    model: DemoModel, batch: Batch, generator: torch.Generator, exact: Tensor, shift: float, may_own: bool
) -> Tensor:
    num_clips, num_blocks = batch.has_past.shape
    sigmas = _draw_sigmas((num_clips, COPIES, num_blocks), generator, exact, shift)
    embeddings = _embeddings(model, batch, generator)
    context = batch.latents
    if may_own and _uniform(generator) < OWN_SHARE:
        context = _own_context(model, batch.latents, embeddings, generator, exact)
    elif _uniform(generator) < 0.5:
        level = CONTEXT_SIGMA * torch.rand(len(context), 1, 1, 1, 1, 1, generator=generator)
        context = (1 - level) * context + level * torch.randn(context.shape, generator=generator)
    return _loss(model, batch, context, sigmas, embeddings, generator, num_blocks)


def _loss(
    model: DemoModel,
    batch: Batch,
    context: Tensor,
    sigmas: Tensor,
    embeddings: Tensor,
    generator: torch.Generator,
    prefix: int,
) -> Tensor:
    """Mean squared error of the velocity, of blocks that know where things are."""
    clean = batch.latents[:, None].expand(-1, COPIES, -1, -1, -1, -1, -1)  # [B, R, K, F, C, h, w]
    noise = torch.randn(clean.shape, generator=generator)
    wide = sigmas[..., None, None, None, None]
    noisy = (1 - wide) * clean + wide * noise
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model.blocks(context, noisy, sigmas, embeddings, prefix)
    error = (velocity - (noise - clean)).square().mean(dim=(1, 3, 4, 5, 6))  # [B, K]
    loss: Tensor = (error * batch.has_past).sum() / batch.has_past.sum()
    return loss


def _embeddings(model: DemoModel, batch: Batch, generator: torch.Generator) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        rows = model.embed(batch.prompts, generator)
    return rows.view(*batch.has_past.shape, *rows.shape[1:])


@torch.no_grad()
def _own_context(
    model: DemoModel, latents: Tensor, embeddings: Tensor, generator: torch.Generator, exact: Tensor
) -> Tensor:
    """One-step estimates of every block, from one of the two last noise levels, in place of the truth."""
    levels = exact[-2:][torch.randint(2, latents.shape[:2], generator=generator)]
    wide = levels[..., None, None, None, None]
    noisy = (1 - wide) * latents + wide * torch.randn(latents.shape, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model.blocks(latents, noisy[:, None], levels[:, None], embeddings)[:, 0]
    clean: Tensor = noisy - wide * velocity
    return clean


def _draw_sigmas(shape: tuple[int, ...], generator: torch.Generator, exact: Tensor, shift: float) -> Tensor:
    """Noise levels: mostly those of inference, some from the whole shifted range."""
    chosen = exact[torch.randint(len(exact), shape, generator=generator)]
    linear = torch.rand(shape, generator=generator)
    continuous = shift * linear / (1 + (shift - 1) * linear)
    is_exact = torch.rand(shape, generator=generator) < EXACT_SHARE
    return torch.where(is_exact, chosen, continuous)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
