"""Training of the VAE: pictures to latents and back.

Muon on the convolutions is what makes it learn within minutes; AdamW alone stalls. The loss goes through
the encoder and decoder modules, since the class's own `decode` clamps and a clamp has no gradient.
"""

from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor

from demo_world.training import NumberFormat, Rates, train
from demo_world.world import SIZE, World, random_script

CONFIG = {
    "base_dim": 16,
    "z_dim": 16,
    "dim_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
}
"""2x2 pixels are folded into channels (as in Wan 2.2's VAE), which halves the cost of the widest layers."""

NUM_STEPS = 2600
CLIPS = 4
LATENTS = 3
"""Latent frames of a training clip: 1 + 4 + 4 pictures."""
CROP = 64
"""Pixels of a side; the last steps see whole pictures."""
RATES = Rates(muon=5e-3, adamw=1e-3)
GRADIENT_WEIGHT, SQUARE_WEIGHT, KL_WEIGHT = 0.3, 2.0, 2e-4
LOG_VARIANCE_START = -5.0
NORMAL_CLIPS = 64
"""Clips whose latents say what is normal."""


def train_vae(
    folder: Path,
    *,
    seed: int = 0,
    num_steps: int = NUM_STEPS,
    number_format: NumberFormat | None = None,
) -> AutoencoderKLWan:
    """The trained VAE, latents normalised by its configuration; its state is kept in `folder`."""
    torch.manual_seed(seed)
    model = AutoencoderKLWan(**CONFIG)
    with torch.no_grad():
        _bias(model)[CONFIG["z_dim"] :] = LOG_VARIANCE_START
    _channels_last(model)

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        clips = torch.stack([_clip(seed * 1_000_003 + step * CLIPS + i) for i in range(CLIPS)])
        if step < 0.85 * num_steps:
            clips = _crop(clips, generator)
        return _loss(model, clips, generator)

    train(
        model,
        loss,
        num_steps=num_steps,
        rates=RATES,
        state_file=folder / "vae.pt",
        number_format=number_format,
    )
    _normalise(model)
    return model


def load_vae(folder: Path) -> AutoencoderKLWan:
    """The VAE of a checkpoint, in single precision."""
    model = AutoencoderKLWan.from_pretrained(folder).float().eval().requires_grad_(False)
    _channels_last(model)
    return model


def to_video(frames: np.ndarray) -> Tensor:
    """uint8 [T, H, W, 3] -> float32 [3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def encode(model: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Means and log variances [B, 2 * z_dim, F, h, w], not normalised, of video [B, 3, T, H, W].

    The first picture, then the rest, in two calls: the same numbers as the class's walk over four at a time.
    """
    patches = patchify(video, patch_size=CONFIG["patch_size"])
    memory = [None] * model._cached_conv_counts["encoder"]
    parts = [
        model.encoder(part, feat_cache=memory, feat_idx=[0])
        for part in patches.split([1, patches.shape[2] - 1], dim=2)
    ]
    moments: Tensor = model.quant_conv(torch.cat(parts, dim=2))
    return moments


def _loss(model: AutoencoderKLWan, video: Tensor, generator: torch.Generator) -> Tensor:
    mean, log_variance = encode(model, video).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-20, 10)
    noise = torch.randn(mean.shape, generator=generator)
    made = _decode(model, mean + (log_variance / 2).exp() * noise).float()
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
    error = made - video
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    weighted = GRADIENT_WEIGHT * gradients + SQUARE_WEIGHT * error.square().mean() + KL_WEIGHT * kl
    return error.abs().mean() + weighted


def _decode(model: AutoencoderKLWan, latents: Tensor) -> Tensor:
    z = model.post_quant_conv(latents)
    memory = [None] * model._cached_conv_counts["decoder"]
    first = model.decoder(z[:, :, :1], feat_cache=memory, feat_idx=[0], first_chunk=True)
    rest = model.decoder(z[:, :, 1:], feat_cache=memory, feat_idx=[0])
    video: Tensor = unpatchify(torch.cat([first, rest], dim=2), patch_size=CONFIG["patch_size"])
    return video


def _clip(seed: int) -> Tensor:
    """Video [3, 9, SIZE, SIZE] of a shape anywhere that may change with any latent frame."""
    world = World(seed, anywhere=True)
    script = random_script(Random(seed), LATENTS)
    counts = [1] + [4] * (LATENTS - 1)
    return to_video(np.concatenate([world.frames(s, n) for s, n in zip(script, counts, strict=True)]))


def _crop(clips: Tensor, generator: torch.Generator) -> Tensor:
    """A window of CROP pixels of each clip of [B, 3, T, H, W]."""
    corners = torch.randint(SIZE - CROP + 1, (len(clips), 2), generator=generator).tolist()
    return torch.stack(
        [clip[..., y : y + CROP, x : x + CROP] for clip, (y, x) in zip(clips, corners, strict=True)]
    )


def _channels_last(model: AutoencoderKLWan) -> None:
    """Kernels as the processor reads them fastest: encoding takes a third less time."""
    for parameter in model.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


def _bias(model: AutoencoderKLWan) -> Tensor:
    bias: Tensor = model.quant_conv.bias
    return bias


@torch.inference_mode()
def _normalise(model: AutoencoderKLWan) -> None:
    """Write each latent channel's mean and deviation into the configuration, as the real VAE has them."""
    clips = torch.stack([_clip(10**9 + i) for i in range(NORMAL_CLIPS)])
    parts = clips.tensor_split(NORMAL_CLIPS // 8)
    mean = torch.cat([encode(model, part).chunk(2, dim=1)[0] for part in parts])
    mean = mean.transpose(0, 1).flatten(1)  # [z_dim, all]
    model.register_to_config(latents_mean=mean.mean(1).tolist(), latents_std=mean.std(1).tolist())
