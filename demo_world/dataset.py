"""The training clips as latents, encoded once and kept in one file."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from demo_world.train_vae import encode, to_video
from demo_world.world import MOTIONS, Motion, Scene, World, describe, random_script

NUM_CLIPS = 1500
NUM_BLOCKS = 9
SHOWN_MOTIONS: tuple[Motion, ...] = (*MOTIONS, "bounce", "bounce", "circle")
"""What motions are drawn from: more of those that need exact knowledge of the last places."""
LATE_SHARE = 0.35
"""Share of the stretches that may begin later than their clip."""
BLOCK_FRAMES = 3
SHARD = 50
"""Clips encoded between two saves."""


@dataclass(frozen=True)
class Batch:
    """Stretches of clips."""

    latents: Tensor
    """[B, K, F, C, h, w], normalised."""
    prompts: list[str]
    """B * K of them, clip by clip; each drawn anew in one of its wordings."""
    has_past: Tensor
    """[B, K]: 0 for a first block that is not the first of its clip, where nothing says where things are."""


class Dataset:
    """Clips of 9 blocks with the scene of every block."""

    def __init__(self, latents: Tensor, seed: int) -> None:
        """`latents` [N, 9, F, C, h, w]; `seed` is the one they were made with."""
        self._latents = latents
        self._scripts = [script_of(seed, index) for index in range(len(latents))]

    def batch(
        self, generator: torch.Generator, num_clips: int, num_blocks: int, late_share: float = LATE_SHARE
    ) -> Batch:
        """A random batch of stretches."""
        clips = torch.randint(len(self._latents), (num_clips,), generator=generator).tolist()
        late = torch.randint(NUM_BLOCKS - num_blocks + 1, (num_clips,), generator=generator)
        firsts = (late * (torch.rand(num_clips, generator=generator) < late_share)).tolist()
        words = Random(int(torch.randint(2**31, (), generator=generator)))
        latents = torch.stack(
            [
                self._latents[clip, first : first + num_blocks].float()
                for clip, first in zip(clips, firsts, strict=True)
            ]
        )
        prompts = [
            describe(scene, words)
            for clip, first in zip(clips, firsts, strict=True)
            for scene in self._scripts[clip][first : first + num_blocks]
        ]
        has_past = torch.ones(num_clips, num_blocks)
        has_past[:, 0] = torch.tensor([float(first == 0) for first in firsts])
        return Batch(latents, prompts, has_past)


def script_of(seed: int, index: int) -> list[Scene]:
    """The scenes of a training clip."""
    return random_script(Random(f"{seed} {index}"), NUM_BLOCKS, motions=SHOWN_MOTIONS)


def make_dataset(
    vae: AutoencoderKLWan, folder: Path, *, seed: int = 0, num_clips: int = NUM_CLIPS
) -> Dataset:
    """Render and encode the clips; what an earlier call left in `folder` is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    with tqdm(total=num_clips, desc="clips", unit="clip") as bar:
        for first in range(0, num_clips, SHARD):
            indices = range(first, min(first + SHARD, num_clips))
            shards.append(_shard(vae, folder / f"clips-{first:05d}.safetensors", seed, indices))
            bar.update(len(indices))
    return Dataset(torch.cat(shards), seed)


def _shard(vae: AutoencoderKLWan, file: Path, seed: int, indices: range) -> Tensor:
    if not file.exists():
        partial = file.with_suffix(".partial")
        save_file({"latents": torch.stack([_encode_clip(vae, seed, index) for index in indices])}, partial)
        partial.replace(file)
    return load_file(file)["latents"]


@torch.inference_mode()
def _encode_clip(vae: AutoencoderKLWan, seed: int, index: int) -> Tensor:
    """Normalised latents [blocks, F, C, h, w], half precision."""
    video = to_video(World(seed * 10**6 + index).video(script_of(seed, index)))
    with torch.autocast("cpu", torch.bfloat16):
        mean = encode(vae, video[None]).float().chunk(2, dim=1)[0][0].transpose(0, 1)  # [F, C, h, w]
    shape = (1, -1, 1, 1)
    offset, scale = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    latents = (mean - offset.view(shape)) / scale.view(shape)
    return latents.view(-1, BLOCK_FRAMES, *latents.shape[1:]).half()
