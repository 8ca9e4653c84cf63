"""Timesteps, the algebra of flow matching, and noise that depends on nothing but its name."""

import hashlib
import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cascade_core.config import SamplingConfig
from cascade_core.model.sampler import (
    block_noise,
    clean_estimate,
    pass_sigmas,
    pass_timesteps,
    renoise,
    shifted_sigma,
)

STANDARD = SamplingConfig(steps=(1000, 750, 500, 250))
SHAPE = (3, 4, 8, 8)


def test_the_standard_list_gives_the_published_timesteps() -> None:
    assert pass_timesteps(STANDARD) == pytest.approx([1000, 937.5, 833.333333, 625, 0], abs=1e-5)


def test_the_context_pass_is_told_its_noise() -> None:
    sampling = SamplingConfig(steps=(1000, 500), context_noise=40.0)
    assert pass_timesteps(sampling)[-1] == pytest.approx(40.0)
    assert pass_sigmas(sampling)[-1] == pytest.approx(0.04)


@given(step=st.integers(1, 1000), shift=st.floats(0.1, 20))
def test_the_shift_is_the_flow_matching_warp(step: int, shift: float) -> None:
    sigma = shifted_sigma(step, shift)
    linear = step / 1000
    # The warp multiplies the odds of noise against signal: sigma / (1 - sigma) = shift * s / (1 - s).
    assert sigma * (1 - linear) == pytest.approx(shift * linear * (1 - sigma), abs=1e-12)


@pytest.mark.parametrize("sigma", pass_sigmas(STANDARD)[:-1])
def test_the_true_velocity_takes_a_noised_block_back(sigma: float) -> None:
    clean, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    noisy = renoise(clean, noise, sigma)
    torch.testing.assert_close(noisy, (1 - sigma) * clean + sigma * noise)
    velocity = noise - clean  # d x_t / d sigma
    restored = clean_estimate(noisy, velocity, sigma)
    torch.testing.assert_close(restored, clean, rtol=0, atol=2e-6)
    assert restored.dtype == torch.float32


def test_renoise_at_the_ends() -> None:
    clean, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(renoise(clean, noise, 1.0), noise)
    assert torch.equal(renoise(clean, noise, 0.0), clean)


def test_the_clean_estimate_is_made_in_float64() -> None:
    """1 - 2^-26 is 1 in float32, which would give -2."""
    noisy = torch.tensor([2.0**24])
    velocity = torch.tensor([2.0**24 + 2])
    assert clean_estimate(noisy, velocity, 1 - 2**-26).item() == pytest.approx(-1.75, abs=1e-6)


ARGUMENTS = [
    *itertools.product((0, 1, 2**63 - 1), (0, 1, 2, 3_333), (0, 1, 2, 4)),
    (2, 1, 0),
    (3_333, 2, 1),
]


def test_noise_is_distinct_in_each_argument_and_repeats() -> None:
    seen = {arguments: block_noise(*arguments, SHAPE) for arguments in ARGUMENTS}
    for arguments, noise in reversed(seen.items()):
        assert torch.equal(noise, block_noise(*arguments, SHAPE))
    flat = torch.stack([noise.flatten() for noise in seen.values()])
    correlation = flat @ flat.T / flat.shape[1]
    # Independent standard normals of 768 values: off the diagonal about N(0, 1 / 768), 6 sigma allowed.
    off_diagonal = correlation - torch.diag(correlation.diag())
    assert off_diagonal.abs().max() < 6 / flat.shape[1] ** 0.5


def test_streams_of_noise_do_not_overlap() -> None:
    """A stream that ran into its neighbour's would repeat its values, shifted."""
    names = [(5, block, pass_index) for block in range(3) for pass_index in range(5)]
    streams = [set(block_noise(*name, (3, 16, 30, 52)).flatten().tolist()) for name in names]
    for stream, other in itertools.combinations(streams, 2):
        # Of 75,000 float32 values each, chance makes about one in a thousand equal.
        assert len(stream & other) < 0.01 * len(stream)


def test_noise_is_not_disturbed_by_global_generators() -> None:
    torch.manual_seed(0)
    first = block_noise(5, 6, 1, SHAPE)
    torch.manual_seed(1)
    assert torch.equal(first, block_noise(5, 6, 1, SHAPE))


def test_noise_is_standard_normal() -> None:
    noise = torch.stack([block_noise(11, block, 2, (3, 16, 60, 104)) for block in range(4)]).double()
    size = noise.numel()
    assert noise.mean().abs() < 5 / size**0.5
    assert (noise.var() - 1).abs() < 5 * (2 / size) ** 0.5
    normal = torch.distributions.Normal(0.0, 1.0)
    uniform = normal.cdf(noise.flatten()).sort().values
    steps = torch.arange(1, size + 1, dtype=torch.float64) / size
    assert (uniform - steps).abs().max() < 1.95 / size**0.5  # Kolmogorov-Smirnov at 0.1 %
    assert noise.dtype == torch.float64
    assert block_noise(11, 0, 2, SHAPE).dtype == torch.float32


def test_noise_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from cascade_core.model.sampler import block_noise as n;"
        f"print(hashlib.sha256(n(2**62, 41, 3, {SHAPE}).numpy().tobytes()).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    here = hashlib.sha256(block_noise(2**62, 41, 3, SHAPE).numpy().tobytes()).hexdigest()
    assert here == there
