"""A process that turns one session's latents into an MP4, beside the engine.

The engine's parent must not touch CUDA, and decoding takes about as long as denoising, so both run at once.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cascade_core.config import ModelCard
from cascade_core.errors import CascadeError
from cascade_core.media import Mp4Writer

if TYPE_CHECKING:
    from cascade_core.vae import DecoderState, VideoDecoder


@dataclass(frozen=True)
class DecodeJob:
    """What the decoding process needs to know."""

    card: ModelCard
    decoder: Literal["vae", "taehv"]
    weights: Path | None
    """None: random weights."""
    output: Path
    width: int
    height: int
    device: str
    """`cpu`, or `cuda`: the last GPU, which has the least to do beside the ranks."""
    threads: int


class Decoding:
    """Asynchronous face of the decoding process. Leaving the block by an exception discards the file."""

    def __init__(self, job: DecodeJob) -> None:
        self._job = job
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, initializer=_prepare_process)

    async def append(self, latents: Tensor) -> None:
        """Decode one block [F, C, h, w] and append its frames."""
        await self._run(_append, latents.numpy())

    async def __aenter__(self) -> Self:
        """Load the decoder and open the output. Raises WeightsError or InvalidConfig."""
        try:
            await self._run(_open, self._job)
        except BaseException:
            self._pool.shutdown()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._run(_close, kind is None)
        finally:
            self._pool.shutdown()

    async def _run(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        except BrokenProcessPool:
            raise CascadeError("the decoding process died") from None


@dataclass
class _Job:
    """The decoding process's state."""

    decoder: "VideoDecoder"
    state: "DecoderState"
    writer: Mp4Writer
    files: ExitStack


_job: _Job | None = None


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then tells us
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


def _open(job: DecodeJob) -> None:
    # Importing diffusers takes seconds, which the parent need not wait for.
    from cascade_core.taehv import load_taehv
    from cascade_core.vae import load_vae

    global _job
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    if job.device == "cuda":
        device = torch.device("cuda", torch.cuda.device_count() - 1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    decoder: VideoDecoder
    if job.decoder == "taehv":
        decoder = load_taehv(job.weights, device, dtype)
    else:
        decoder = load_vae(job.card, job.weights, device, dtype)
    files = ExitStack()
    writer = files.enter_context(Mp4Writer(job.output, job.width, job.height, job.card.video.fps))
    _job = _Job(decoder, decoder.open(), writer, files)


def _append(latents: NDArray[np.float32]) -> None:
    assert _job is not None
    _job.writer.append(_job.decoder.decode(_job.state, torch.from_numpy(latents)).cpu())


def _close(complete: bool) -> None:
    assert _job is not None
    if complete:
        _job.files.close()
    else:
        _job.files.__exit__(InterruptedError, InterruptedError("the video was not finished"), None)
