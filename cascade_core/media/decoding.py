"""A process that turns one session's latents into an MP4, beside the engine.

The engine's parent must not touch CUDA, and decoding takes about as long as denoising, so both run at once.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cascade_core.config import ModelCard
from cascade_core.errors import CascadeError
from cascade_core.machine import has_fast_bfloat16
from cascade_core.media.media import Mp4Writer, partial_path
from cascade_core.media.start.start_file import StartBounds, StartFile, StartShape

if TYPE_CHECKING:
    from cascade_core.media.video_decoder import DecoderState, VideoDecoder
    from cascade_core.media.video_encoder import EncoderState, VideoEncoder

T = TypeVar("T")
CLOSE_GRACE_S = 5.0
"""Time the process has to end by itself once the file is complete."""
KILL_GRACE_S = 1.0
"""A hung driver can hold even a killed process."""


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
    deadline_s: float = 120.0
    """Time to load the decoder, to decode one block, and to complete the file; then the process is killed.
    The VAE on one CPU core takes about 20 s for a block of 832x480."""


class Decoding:
    """Asynchronous face of the decoding process. Leaving the block without `finish` discards the file."""

    def __init__(self, job: DecodeJob) -> None:
        self._job = job
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_die_with_parent
        )
        self._process: BaseProcess | None = None
        self._finished = False

    async def append(self, latents: Tensor, *, is_shown: bool = True) -> None:
        """Decode one block [F, C, h, w] and append its frames; not shown: only so that the next ones go on
        from it."""
        await self._run(_append, latents.numpy(), is_shown)

    async def encode(self, file: StartFile, shape: StartShape, still_blocks: int) -> list[Tensor]:
        """Latents of a picture or clip, block by block, [F, C, h, w]; a picture stands still for so many
        blocks, 0: it is one latent frame, [1, C, h, w]. Raises UnusableFile."""
        num_blocks = await self._run(_begin, file, shape, still_blocks)
        return [torch.from_numpy(await self._run(_encode)) for _ in range(num_blocks)]

    async def finish(self) -> None:
        """Complete the file and give it its name."""
        await self._run(_finish)
        self._finished = True

    async def __aenter__(self) -> Self:
        """Load the decoder and open the output. Raises WeightsError or InvalidConfig."""
        try:
            await self._run(_open, self._job)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        """Raises what the function raises, or CascadeError where the process died or is too slow."""
        try:
            return await self._answer(self._submit(function, *arguments))
        except BrokenProcessPool:  # from submitting, if it died between two calls
            raise CascadeError("the decoding process died") from None

    def _submit(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        with _signals_blocked():
            work = asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        # A broken pool forgets its process, which `_stop` still has to end.
        self._process = next(iter((self._pool._processes or {}).values()), self._process)
        return work

    async def _answer(self, work: asyncio.Future[T]) -> T:
        deadline_s = self._job.deadline_s
        try:
            await asyncio.wait({work}, timeout=deadline_s)
            if not work.done():
                raise CascadeError(f"the decoding process did not answer within {deadline_s:g} s")
            return work.result()
        finally:
            work.cancel()

    async def _stop(self) -> None:
        """Ask, wait, kill; what an unfinished file has so far goes too, so there is nothing to wait for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._process is None:
            return
        try:
            if self._finished:
                await asyncio.to_thread(wait, [self._process.sentinel], CLOSE_GRACE_S)
        finally:
            self._process.kill()
            wait([self._process.sentinel], KILL_GRACE_S)
            assert self._process.pid is not None
            partial_path(self._job.output, self._process.pid).unlink(missing_ok=True)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started here never sees Ctrl-C or SIGTERM: both are for the parent, which then stops it."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@dataclass
class _Job:
    """The decoding process's state."""

    decoder: "VideoDecoder"
    state: "DecoderState"
    writer: Mp4Writer
    files: ExitStack


_job: _Job | None = None


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _open(job: DecodeJob) -> None:
    global _job
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    if job.device == "cuda":
        device = torch.device("cuda", torch.cuda.device_count() - 1)
    dtype = torch.bfloat16 if device.type == "cuda" or has_fast_bfloat16() else torch.float32
    decoder: VideoDecoder
    # Importing them takes seconds, which the parent need not wait for.
    if job.decoder == "taehv":
        from cascade_core.media.taehv import load_taehv

        decoder = load_taehv(job.card, job.weights, device, dtype)
    else:
        from cascade_core.media.vae import load_vae

        decoder = load_vae(job.card, job.weights, device, dtype)
    files = ExitStack()
    writer = files.enter_context(Mp4Writer(job.output, job.width, job.height, job.card.video.fps))
    _job = _Job(decoder, decoder.open(), writer, files)


def _append(latents: NDArray[np.float32], is_shown: bool) -> None:
    assert _job is not None
    frames = _job.decoder.decode(_job.state, torch.from_numpy(latents)).cpu()
    if is_shown:
        _job.writer.append(frames)


@dataclass
class _Clip:
    """What is still to be encoded."""

    encoder: "VideoEncoder"
    state: "EncoderState"
    pictures: Iterator[NDArray[np.uint8]]
    lengths: Iterator[int]
    """Pictures of each block."""


_clip: _Clip | None = None


def _begin(file: StartFile, shape: StartShape, still_blocks: int) -> int:
    """How many blocks there will be."""
    global _clip
    from cascade_core.media.start.pictures import open_start

    assert _job is not None
    opened = open_start(file, shape, StartBounds())
    pictures, num = opened.pictures, opened.num_pictures
    if file.kind == "image":
        num = max(1, 4 * shape.block_frames * still_blocks - 3)
        pictures = repeat(next(pictures), num)
    num_blocks = max(1, (num + 3) // (4 * shape.block_frames))
    each = 4 * shape.block_frames
    encoder = cast("VideoEncoder", _job.decoder)
    lengths = iter([num - each * (num_blocks - 1), *[each] * (num_blocks - 1)])
    _clip = _Clip(encoder, encoder.open_encoder(), pictures, lengths)
    return num_blocks


def _encode() -> NDArray[np.float32]:
    """The next block."""
    assert _clip is not None
    frames = np.stack(list(islice(_clip.pictures, next(_clip.lengths))))
    return _clip.encoder.encode(_clip.state, torch.from_numpy(frames)).numpy()


def _finish() -> None:
    assert _job is not None
    _job.files.close()
