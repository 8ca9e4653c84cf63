"""UniPC against diffusers' scheduler, at the noise levels of LongLive 2.0."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from cascade_core.config import SamplingConfig
from cascade_core.model.sampler import clean_estimate, pass_sigmas, pass_timesteps
from cascade_core.model.unipc import advance


def grid(num_steps: int) -> SamplingConfig:
    """An even grid from 999 down to 0, which is not among the steps."""
    steps = tuple(999 * (num_steps - index) / num_steps for index in range(num_steps))
    return SamplingConfig(steps=steps, solver="unipc")


@pytest.mark.parametrize(
    ("num_steps", "sigmas", "timesteps"),
    [
        (4, [0.9998, 0.937265, 0.833055, 0.624687, 0], [999, 937, 833, 624, 0]),
        (2, [0.9998, 0.833055, 0], [999, 833, 0]),
    ],
)
def test_the_published_numbers(num_steps: int, sigmas: list[float], timesteps: list[float]) -> None:
    assert pass_sigmas(grid(num_steps)) == pytest.approx(sigmas, abs=1e-6)
    assert pass_timesteps(grid(num_steps)) == pytest.approx(timesteps, abs=0)


def inputs(sigmas: tuple[float, ...], noisy: Tensor, velocities: Tensor, begin: int = 0) -> list[Tensor]:
    """What each pass is given, and the clean block at last."""
    given, history = [noisy], None
    for index in range(begin, len(sigmas)):
        clean = clean_estimate(given[-1], velocities[index], sigmas[index])
        if index == len(sigmas) - 1:
            return [*given, clean]
        following, history = advance(sigmas, index, given[-1], clean, history)
        given.append(following)
    raise AssertionError("there is a last pass")


@pytest.mark.parametrize(("num_steps", "begin"), [(1, 0), (2, 0), (3, 0), (4, 0), (4, 2), (9, 0), (9, 5)])
def test_every_step_is_diffusers(num_steps: int, begin: int) -> None:
    """`begin`: where a block was set back to."""
    sigmas = pass_sigmas(grid(num_steps))[:-1]
    generator = torch.Generator().manual_seed(num_steps)
    noisy, *velocities = torch.randn(1 + num_steps, 8, 4, 4, 4, generator=generator)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(num_steps)
    scheduler.set_begin_index(begin)
    scheduler.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float64)
    expected = [noisy]
    for timestep, velocity in list(zip(scheduler.timesteps, velocities, strict=True))[begin:]:
        expected.append(scheduler.step(velocity, timestep, expected[-1], return_dict=False)[0])
    actual = inputs(sigmas, noisy, torch.stack(velocities), begin)
    for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
        torch.testing.assert_close(one, other.float(), rtol=0, atol=3e-6, msg=f"step {index}")
