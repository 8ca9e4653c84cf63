"""Processes of one thread that decode clips and look at their pictures."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cascade_core.config import ModelCard
from cascade_core.errors import CascadeError
from cascade_core.machine import has_fast_bfloat16
from cascade_core.weights.locate import locate_part
from demo_world.score import Track, measure
from demo_world.world import Frames, block_frames

if TYPE_CHECKING:
    from cascade_core.media.vae import WanVae

T = TypeVar("T")

Latents = NDArray[np.float32]
"""Of a block, [F, C, h, w]."""


@dataclass(frozen=True)
class Picture:
    """A stretch of a clip, decoded."""

    track: Track
    frames: Frames | None
    """None where nobody will look at it."""


class Darkroom:
    """Hands stretches of latents to its processes."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    async def develop(self, blocks: Sequence[Latents], num_skipped: int, keeps_frames: bool) -> Picture:
        """Decode neighbouring blocks and measure their pictures but the first `num_skipped`."""
        return await self._run(_develop, blocks, num_skipped, keeps_frames)

    async def encode(self, frames: Frames) -> list[Latents]:
        """The latents of a clip's pictures, by block."""
        return await self._run(_encode, frames)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, work, *arguments)
        except BrokenProcessPool:
            raise CascadeError("a decoding process ended (killed, perhaps for lack of memory)") from None


@contextmanager
def darkroom(card: ModelCard, weights: str | None, num_processes: int) -> Iterator[Darkroom]:
    """With the card's VAE, on the CPU. Raises WeightsError."""
    locate_part(card, weights, "vae")  # says what is wrong here rather than in each process
    context = get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, context, initializer=_enter, initargs=(card, weights))
    try:
        yield Darkroom(pool)
    finally:
        pool.shutdown(cancel_futures=True)


_decoder: "WanVae"
"""Of this process, where it is one of a darkroom's."""


def _enter(card: ModelCard, weights: str | None) -> None:
    from cascade_core.media.vae import load_vae  # seconds of diffusers, which our parent need not spend

    global _decoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for our parent, who then ends us
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32  # as the product decodes
    _decoder = load_vae(card, locate_part(card, weights, "vae"), torch.device("cpu"), dtype)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _develop(blocks: Sequence[Latents], num_skipped: int, keeps_frames: bool) -> Picture:
    state = _decoder.open()
    pixels = [_decoder.decode(state, torch.from_numpy(latents)).numpy() for latents in blocks]
    frames = np.concatenate(pixels)[num_skipped:]
    return Picture(measure(frames), frames if keeps_frames else None)


def _encode(frames: Frames) -> list[Latents]:
    state, blocks, at = _decoder.open_encoder(), list[Latents](), 0
    while at < len(frames):
        end = at + block_frames(len(blocks))
        blocks.append(_decoder.encode(state, torch.from_numpy(frames[at:end])).numpy())
        at = end
    return blocks
