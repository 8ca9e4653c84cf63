"""What both trainings share: Muon and AdamW under one schedule, progress, resumption."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

WARMUP_STEPS = 50
SAVE_STEPS = 100
GRADIENT_NORM = 1.0
MUON_MOMENTUM = 0.95


class Optimiser:
    """Muon on matrices (convolution kernels as matrices), AdamW on the rest; the rates decay to zero.

    Learning-rate decay is worth most of the quality: do not judge a model before it.
    """

    def __init__(self, model: nn.Module, muon_lr: float, adamw_lr: float, num_steps: int) -> None:
        self._kernels: list[tuple[nn.Parameter, nn.Parameter]] = []
        matrices, rest = [], []
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or "modulation" in name or "bias" in name or "embed_tokens" in name:
                rest.append(parameter)
            elif parameter.ndim == 2:
                matrices.append(parameter)
            else:
                matrix = nn.Parameter(_as_matrix(parameter.data))
                self._kernels.append((parameter, matrix))
                matrices.append(matrix)
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, lr=muon_lr, momentum=MUON_MOMENTUM, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]

        def rate(step: int) -> float:
            left: float = max(0.0, 1 - step / num_steps)
            return min((step + 1) / WARMUP_STEPS, math.pow(left, 0.75))

        self._schedules = [torch.optim.lr_scheduler.LambdaLR(one, rate) for one in self._all]
        self._parameters = list(model.parameters())

    def step(self) -> None:
        """Use the gradients, and clear them."""
        nn.utils.clip_grad_norm_(self._parameters, GRADIENT_NORM)
        for kernel, matrix in self._kernels:
            matrix.grad = None if kernel.grad is None else _as_matrix(kernel.grad)
        for optimiser, schedule in zip(self._all, self._schedules, strict=True):
            optimiser.step()
            schedule.step()
        for parameter in self._parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, list[dict[str, Any]]]:
        return {
            "optimisers": [optimiser.state_dict() for optimiser in self._all],
            "schedules": [schedule.state_dict() for schedule in self._schedules],
        }

    def load_state_dict(self, state: dict[str, list[dict[str, Any]]]) -> None:
        for optimiser, saved in zip(self._all, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        for schedule, saved in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)


def _as_matrix(kernel: Tensor) -> Tensor:
    """A view [out, rest] of a convolution kernel, so that what Muon changes is the kernel."""
    return kernel.movedim(1, -1).flatten(1) if not kernel.is_contiguous() else kernel.flatten(1)


def train(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    num_steps: int,
    muon_lr: float,
    adamw_lr: float,
    state_file: Path,
) -> None:
    """Minimise `loss(step)` over the model's weights, which are frozen afterwards.

    Everything a run consists of is saved to `state_file` every 100 steps, and a later call with the same
    file goes on there. A step's loss must depend on the step and the weights alone.
    """
    optimiser = Optimiser(model, muon_lr, adamw_lr, num_steps)
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    with tqdm(total=num_steps, initial=first, desc=state_file.stem, unit="step") as bar:
        smooth = None
        for step in range(first, num_steps):
            value = loss(step)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            smooth = value.item() if smooth is None else 0.98 * smooth + 0.02 * value.item()
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            bar.update()
            if (step + 1) % SAVE_STEPS == 0 or step + 1 == num_steps:
                _save(state_file, model, optimiser, step + 1)
    model.eval().requires_grad_(False)


def _save(file: Path, model: nn.Module, optimiser: Optimiser, step: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, partial)
    os.replace(partial, file)
