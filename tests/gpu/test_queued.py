"""Ticks that are queued, and noise that is drawn ahead: nothing is read before it is there."""

import queue
import time

import pytest
import torch
from torch import Tensor

from cascade_core.model.sampler import block_noise
from cascade_core.ranks.noise import NoiseThread, SessionNoise
from cascade_core.ranks.tick_queue import tick_queue

WAIT_S = 30.0
BUSY_CYCLES = 1_000_000_000
"""About half a second of a GPU."""
SHAPE = (3, 16, 60, 104)


def fail() -> None:
    raise AssertionError("nothing fails here")


def test_a_tick_is_queued_while_one_runs(device: torch.device) -> None:
    answers: queue.Queue[tuple[Tensor | None, float]] = queue.Queue()
    ticks = tick_queue(device, lambda latents, compute_s: answers.put((latents, compute_s)), fail)

    def tick(number: int) -> Tensor:
        torch.cuda._sleep(BUSY_CYCLES)
        return torch.full(SHAPE, float(number), device=device)

    started = time.monotonic()
    for number in range(2):
        ticks.run(lambda number=number: tick(number))  # type: ignore[misc]
    queued_s = time.monotonic() - started
    for number in range(2):
        latents, compute_s = answers.get(timeout=WAIT_S)
        assert latents is not None
        assert not latents.is_cuda
        assert bool((latents == number).all())
        assert compute_s > queued_s, "the device was still busy when both were queued"


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "behind"])
def test_noise_is_not_overwritten_before_it_is_copied(is_busy: bool, device: torch.device) -> None:
    """The device is behind, so that every copy waits while the next noise is drawn."""
    noise = SessionNoise(NoiseThread(device), 7, SHAPE)
    taken: list[Tensor] = []
    for block in range(20):
        noise.expect([(block, 0), (block, 1)])
        if is_busy:
            torch.cuda._sleep(BUSY_CYCLES // 20)
        taken += [noise.take(block, 0), noise.take(block, 1)]
    for number, values in enumerate(taken):
        assert torch.equal(values.cpu(), block_noise(7, number // 2, number % 2, SHAPE))
