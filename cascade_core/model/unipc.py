"""UniPC, a multistep solver of second order: how a block gets from one pass to the next without new noise.

Every step is a weighted sum of latents, with weights that follow from the noise levels alone. A step first
corrects the latents that the pass was given, since the pass has shown where the clean block lies, and then
goes on from there. Nothing of it leaves the block. Source: UniPC (arXiv 2302.04867), B2(h), in the data
prediction form for flow matching, as LongLive 2.0 uses it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

ORDER = 2


@dataclass(frozen=True)
class History:
    """What a block remembers of its passes."""

    sample: Tensor
    """The latents that the last step went on from."""
    estimates: tuple[Tensor, ...]
    """Of the clean block, by the latest passes, newest first; at most `ORDER`."""


def advance(
    sigmas: Sequence[float], index: int, noisy: Tensor, clean: Tensor, history: History | None
) -> tuple[Tensor, History]:
    """Input of the pass after this one, which is not the last that denoises.

    `sigmas` are the noise levels of the denoising passes, `index` this one's, `noisy` its input and `clean`
    what it estimated. Without history the solver begins here.
    """
    before = history.estimates if history else ()
    estimates = (clean, *before)[:ORDER]
    sample = noisy
    if history:
        weights = corrector(sigmas[index - len(before) : index + 1])
        sample = weighted(weights, (history.sample, *before, clean))
    weights = predictor(sigmas[index + 1 - len(estimates) : index + 2])
    return weighted(weights, (sample, *estimates)), History(sample, estimates)


def weighted(weights: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = total.add(part, alpha=weight)
    return total


def predictor(sigmas: Sequence[float]) -> tuple[float, ...]:
    """Weights of the sample and of the newest estimates, newest first, to get from the last but one of these
    noise levels to the last; those before belong to older estimates."""
    *older, now, following = sigmas
    kept, gained, step = _step(now, following)
    if not older:
        return (kept, gained)
    ratio = (_snr(older[-1]) - _snr(now)) / step
    slope = -0.5 * (1 - following) * math.expm1(-step) / ratio
    return (kept, gained - slope, slope)


def corrector(sigmas: Sequence[float]) -> tuple[float, ...]:
    """Weights of the sample that the step before went on from, of the estimates that it had, newest first,
    and of the one at its end, to make the step again."""
    *older, before, now = sigmas
    kept, gained, step = _step(before, now)
    scale = -(1 - now) * math.expm1(-step)
    if not older:
        return (kept, gained - 0.5 * scale, 0.5 * scale)
    ratio = (_snr(older[-1]) - _snr(before)) / step
    old, new = _solve(ratio, step)
    return (kept, gained - scale * (old / ratio + new), scale * old / ratio, scale * new)


def _snr(sigma: float) -> float:
    """Half the logarithm of signal to noise."""
    return math.log(1 - sigma) - math.log(sigma)


def _step(start: float, end: float) -> tuple[float, float, float]:
    """What a step of first order keeps of the sample and takes of the estimate, and how far it goes."""
    step = _snr(end) - _snr(start)
    return end / start, -(1 - end) * math.expm1(-step), step


def _solve(ratio: float, step: float) -> tuple[float, float]:
    """Weights of the differences to the older and to the new estimate."""
    size = -step
    phi = math.expm1(size) / size - 1
    moments = [phi, 2 * (phi / size - 0.5)]
    scale = math.expm1(size)
    old, new = np.linalg.solve([[1.0, 1.0], [ratio, 1.0]], [moment / scale for moment in moments])
    return float(old), float(new)
