"""What each pass of a block is told, and how the block goes on from what it found."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade_core.config import SamplingConfig
from cascade_core.model.model import CausalWanModel
from cascade_core.model.sampler import clean_estimate, pass_sigmas, pass_timesteps, renoise, set_back
from cascade_core.model.unipc import History, advance
from cascade_core.schedule import Shape, Work

CLEAN = 0.0
"""Timestep of a frame that has no noise."""


@dataclass(frozen=True)
class Noisy:
    """A block between two of its passes."""

    coming: int
    """The pass that it is to make next, unless it is set back."""
    latents: Tensor
    """[F, C, h, w]: what that pass is given."""
    history: History | None = None
    """What a multistep solver remembers of the passes so far."""


class Passes:
    """Of one model. Which of them a block makes when is the schedule's."""

    def __init__(self, model: CausalWanModel, sampling: SamplingConfig, shape: Shape) -> None:
        self.renoises = sampling.solver == "renoise"
        self._shape = shape
        self._sigmas = [pass_sigmas(sampling, block) for block in (0, 1)]
        self._timesteps = [pass_timesteps(sampling, block) for block in (0, 1)]
        different = list(dict.fromkeys([*self._timesteps[1], *self._timesteps[0], CLEAN]))
        self._rows = {timestep: row for row, timestep in enumerate(different)}
        with torch.inference_mode():
            self._time, self._modulation = model.embed_time(different)

    def embedded(self, timesteps: Sequence[float]) -> tuple[Tensor, Tensor]:
        """As `CausalWanModel.embed_time`, which took all timesteps of passes once and for all."""
        rows = [self._rows[timestep] for timestep in timesteps]
        return _picked(self._time, rows, 0), _picked(self._modulation, rows, 2)

    def timestep(self, work: Work) -> float:
        return self._timesteps[min(1, work.block)][self._place(work)]

    def set_back(self, noisy: Noisy, work: Work, noise: Tensor) -> Noisy:
        """The block at an earlier pass; a solver begins anew there."""
        sigmas = self._sigmas[min(1, work.block)]
        before = sigmas[self._place(work) + noisy.coming - work.pass_index]
        return Noisy(work.pass_index, set_back(noisy.latents, noise, before, sigmas[self._place(work)]))

    def estimate(self, noisy: Noisy, work: Work, velocity: Tensor) -> Tensor:
        """The clean block as this pass sees it."""
        return clean_estimate(noisy.latents, velocity, self._sigmas[min(1, work.block)][self._place(work)])

    def follow(self, noisy: Noisy, work: Work, clean: Tensor, noise: Tensor | None) -> Noisy:
        """Before the next denoising pass; `noise` is for solvers that take it."""
        sigmas, place = self._sigmas[min(1, work.block)], self._place(work)
        if noise is not None:
            return Noisy(work.pass_index + 1, renoise(clean, noise, sigmas[place + 1]))
        latents, history = advance(sigmas[:-1], place, noisy.latents, clean, noisy.history)
        return Noisy(work.pass_index + 1, latents, history)

    def _place(self, work: Work) -> int:
        """Among the block's own passes, from 0."""
        return work.pass_index - self._shape.first_pass(work.block)


def _picked(table: Tensor, rows: Sequence[int], dim: int) -> Tensor:
    return torch.cat([table.narrow(dim, row, 1) for row in rows], dim)
