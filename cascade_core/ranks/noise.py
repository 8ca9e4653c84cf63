"""The noise of a session's blocks, drawn before a tick asks for it.

A pass begins with its noise, and a block's at 832x480 takes milliseconds of a core: drawn in the tick, the
device would wait for it, and with it all other ranks.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import torch
from torch import Tensor

from cascade_core.model.host_memory import host_empty
from cascade_core.model.sampler import block_noise
from cascade_core.schedule import Shape, TickPlan

Name = tuple[int, int]
"""Block and number of the noise within it, as in `block_noise`."""


def noise_of(block: int, pass_index: int, shape: Shape) -> Name:
    """What a block has in its input at this pass."""
    return block, pass_index - shape.first_pass(block)


def setting_back_noise(block: int, pass_index: int, shape: Shape) -> Name:
    """What is added to a block that goes back to this pass."""
    return block, shape.num_passes + pass_index - 2 * shape.first_pass(block)


def first_noise(block: int, shape: Shape, rank: int, renoises: bool = True) -> list[Name]:
    """What this rank takes in the tick in which a block starts; `renoises`: each pass takes some."""
    mine = block % shape.num_ranks == rank
    first = shape.first_pass(block)
    last = min(first + 1 + renoises, shape.context_pass)
    return [noise_of(block, number, shape) for number in range(first, last) if mine]


def following_noise(plan: TickPlan, shape: Shape, rank: int, renoises: bool = True) -> list[Name]:
    """What this rank may take in the session's tick after this one, unless blocks are set back before it.

    A pass takes the noise of the next one, and a block that starts that of its first as well.
    """
    going_on = [
        noise_of(work.block, work.pass_index + 2, shape)
        for work in plan.ranks[rank]
        if renoises and work.pass_index + 2 < shape.context_pass
    ]
    return going_on + first_noise(plan.works[-1].block + 1, shape, rank, renoises)


class NoiseThread:
    """Draws for all sessions of a rank. It starts with the first noise that is expected."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        on_cuda = device.type == "cuda"
        # Pinned memory belongs to a device, which each thread sets for itself.
        start = partial(torch.cuda.set_device, device) if on_cuda else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="noise", initializer=start)

    def submit(self, draw: Callable[[], Tensor]) -> Future[Tensor]:
        return self._pool.submit(draw)


class SessionNoise:
    """The noise of one session on one rank. It holds no more than was last expected."""

    def __init__(self, thread: NoiseThread, seed: int, shape: tuple[int, ...]) -> None:
        """`shape`: [F, C, h, w] of a block's latents."""
        self._thread = thread
        self._seed = seed
        self._shape = shape
        self._drawn: dict[Name, Future[Tensor]] = {}

    def expect(self, names: Iterable[Name]) -> None:
        """Have these drawn, and forget all others."""
        before = self._drawn
        self._drawn = {
            name: before[name] if name in before else self._thread.submit(partial(self._draw, name))
            for name in names
        }
        for name in before.keys() - self._drawn.keys():
            before[name].cancel()

    def wait(self) -> None:
        """Until all that is expected is drawn."""
        wait(self._drawn.values())

    def take(self, block: int, number: int) -> Tensor:
        """On the device. What nobody expected, or is not begun yet, is drawn here."""
        name = block, number
        drawn = self._drawn.pop(name, None)
        noise = self._draw(name) if drawn is None or drawn.cancel() else drawn.result()
        return noise.to(self._thread.device, non_blocking=True)

    def _draw(self, name: Name) -> Tensor:
        return block_noise(self._seed, *name, self._shape, out=host_empty(self._shape, self._thread.device))
