"""What both trainings share: Muon and AdamW under one schedule, progress, resumption."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

NumberFormat = Literal["bfloat16", "float32"]
FORMATS: tuple[NumberFormat, ...] = get_args(NumberFormat)

WARMUP_STEPS = 50
SAVE_STEPS = 25
MEASURED_STEPS = 3
GRADIENT_NORM = 1.0
MUON_MOMENTUM = 0.95


@dataclass(frozen=True)
class Rates:
    """Learning rates of the two optimisers."""

    muon: float
    adamw: float

    def times(self, factor: float) -> "Rates":
        return Rates(factor * self.muon, factor * self.adamw)


class Optimiser:
    """Muon on matrices (convolution kernels as matrices), AdamW on the rest; the rates decay to zero.

    Learning-rate decay is worth most of the quality: do not judge a model before it.
    """

    def __init__(self, model: nn.Module, rates: Rates, num_steps: int) -> None:
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
                matrices,
                lr=rates.muon,
                momentum=MUON_MOMENTUM,
                weight_decay=0.0,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(rest, lr=rates.adamw, betas=(0.9, 0.98), weight_decay=0.0),
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
    rates: Rates,
    state_file: Path,
    number_format: NumberFormat | None = None,
    compile: Callable[[], None] | None = None,
) -> None:
    """Minimise `loss(step)` over the model's weights, which are frozen afterwards.

    Everything a run consists of is saved to `state_file` every 25 steps and when it is stopped, and a later
    call with the same file goes on there to the same weights. A step's loss must depend on the step and the
    weights alone: what is random comes from a generator seeded with the step. Without a number format the
    run keeps the one that measured fastest when it began. `compile` is called after that. Raises
    KeyboardInterrupt on SIGINT and SIGTERM, after the step under way.
    """
    optimiser = Optimiser(model, rates, num_steps)
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, number_format = state["step"], number_format or state.get("number_format")

    def save(step: int) -> None:
        parts = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
        _write(state_file, parts | {"step": step, "number_format": number_format})

    if first < num_steps:
        number_format = number_format or fastest_format(model, loss)
        if compile:
            compile()
    with (
        _stop_requests() as stop,
        tqdm(total=num_steps, initial=first, desc=state_file.stem, unit="step") as bar,
    ):
        smooth = None
        for step in range(first, num_steps):
            with _autocast(number_format):
                value = loss(step)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            smooth = value.item() if smooth is None else 0.98 * smooth + 0.02 * value.item()
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            bar.update()
            if stop or (step + 1) % SAVE_STEPS == 0 or step + 1 == num_steps:
                save(step + 1)
            if stop:
                raise KeyboardInterrupt
    model.eval().requires_grad_(False)


def fastest_format(model: nn.Module, loss: Callable[[int], Tensor]) -> NumberFormat:
    """`bfloat16` where steps in it are faster on this machine, else `float32`; told to the user.

    bfloat16 helps where the processor has units for it, and hurts elsewhere.
    """
    seconds = {name: _least_seconds(model, loss, name) for name in FORMATS}
    fastest = min(seconds, key=lambda name: seconds[name])
    told = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    tqdm.write(f"number format {fastest} (processor seconds a step, not compiled: {told})")
    return fastest


def _least_seconds(model: nn.Module, loss: Callable[[int], Tensor], number_format: NumberFormat) -> float:
    """The least processor seconds of a few steps, whatever else runs; none of them is taken."""

    def seconds() -> float:
        began = time.process_time()
        with _autocast(number_format):
            value = loss(0)
        value.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
        return time.process_time() - began

    return min(seconds() for _ in range(MEASURED_STEPS))


def _autocast(number_format: NumberFormat | None) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=number_format == "bfloat16")


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Signals that ask to stop, as they come in."""
    requests: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: requests.append(number)) for number in numbers]
    try:
        yield requests
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _write(file: Path, state: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, file)
