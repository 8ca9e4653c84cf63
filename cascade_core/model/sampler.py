"""Few-step flow matching: timesteps, clean estimate, renoising and counter-based noise. Pure functions.

Source: the Self-Forcing family's inference (shift 5, steps index the shifted table).
"""

import math

import numpy as np
import torch
from torch import Tensor

from cascade_core.config import NUM_TRAIN_STEPS, SamplingConfig


def shifted_sigma(step: float, shift: float) -> float:
    """Noise level of table index `step` (1000: pure noise): shift*s / (1 + (shift-1)*s)."""
    linear = step / NUM_TRAIN_STEPS
    return shift * linear / (1 + (shift - 1) * linear)


def pass_sigmas(sampling: SamplingConfig, block: int = 1) -> tuple[float, ...]:
    """Noise level of each pass of a block; the last is the context pass. Block 0 may have more of them."""
    denoising = tuple(shifted_sigma(step, sampling.shift) for step in sampling.steps_of(block))
    return (*denoising, sampling.context_noise / NUM_TRAIN_STEPS)


def pass_timesteps(sampling: SamplingConfig, block: int = 1) -> tuple[float, ...]:
    """What the network is told at each pass, 0..1000: 1000, 937.5, 833.3, 625, 0 for steps
    1000, 750, 500, 250 and shift 5."""
    exact = (NUM_TRAIN_STEPS * sigma for sigma in pass_sigmas(sampling, block))
    return tuple(math.floor(each) if sampling.solver == "unipc" else each for each in exact)


def clean_estimate(noisy: Tensor, velocity: Tensor, sigma: float) -> Tensor:
    """x0 = x_t - sigma * v, in float64 as in the reference, returned as float32."""
    return (noisy.double() - sigma * velocity.double()).float()


def renoise(clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """x_t = (1 - sigma) * x0 + sigma * noise."""
    return (1 - sigma) * clean + sigma * noise


def set_back(noisy: Tensor, noise: Tensor, sigma: float, sigma_before: float) -> Tensor:
    """From noise level sigma back to a higher one, as if the same x0 had only now got its noise."""
    kept = (1 - sigma_before) / (1 - sigma)
    return kept * noisy + math.sqrt(sigma_before**2 - (kept * sigma) ** 2) * noise


def block_noise(
    seed: int, block: int, pass_index: int, shape: tuple[int, ...], out: Tensor | None = None
) -> Tensor:
    """Standard normal float32 noise on the CPU that depends on (seed, block, pass) alone; in `out` if given.

    Philox is counter-based: the same on any rank, world size, device, stagger, or after a recovery.
    """
    bits = np.random.Philox(key=seed, counter=[0, 0, pass_index, block])
    into = None if out is None else out.numpy()
    noise = np.random.Generator(bits).standard_normal(shape, dtype=np.float32, out=into)
    return torch.from_numpy(noise) if out is None else out
