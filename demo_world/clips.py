"""Clips of the demo model, made the way the product makes them: engine, sessions, streamed decoder."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from cascade_core.config import EngineConfig, SwitchMode
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import LatentBlock, PromptApplied
from cascade_core.media.video_decoder import VideoDecoder
from cascade_core.request import SessionRequest
from demo_world.score import Scores, Track, judge, measure
from demo_world.world import SIZE, Frames, Scene, block_frames

MAX_OPEN = 4
"""Sessions open at once; the latents that wait for the decoder are bounded by the engine."""


@dataclass(frozen=True)
class Take:
    """A clip to make."""

    scenes: Mapping[int, Scene]
    """By the block from which it is asked for; the first is block 0."""
    prompts: Mapping[int, str]
    """The words for each scene."""
    seed: int
    num_blocks: int
    switch_mode: SwitchMode = "immediate"


@dataclass(frozen=True)
class Clip:
    """A clip that was made."""

    take: Take
    track: Track
    receipts: list[PromptApplied]
    frames: Frames | None
    """None where nobody will look at it."""

    def scores(self, scene: Scene, first_block: int = 0, end_block: int | None = None) -> Scores:
        """Of blocks first_block..end_block - 1."""
        end = self.take.num_blocks if end_block is None else end_block
        return judge(self.track, scene, first_frame(first_block), first_frame(end))


def first_frame(block: int) -> int:
    """Number of the block's first frame, from 0."""
    return sum(block_frames(index) for index in range(block))


async def film(
    config: EngineConfig,
    decoder: VideoDecoder,
    batches: Mapping[str, Sequence[Take]],
    num_kept: int,
    report: Callable[[], object],
) -> dict[str, list[Clip]]:
    """Make all takes on one engine; the first `num_kept` clips of a batch keep their frames.

    `report` is called for each finished block. Raises CascadeError; nothing is left running.
    """
    limit = asyncio.Semaphore(MAX_OPEN)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as darkroom:
        async with await Engine.start(config) as engine:

            async def one(number: int, take: Take) -> Clip:
                async with limit:
                    return await _film(engine, decoder, darkroom, take, number < num_kept, report)

            return {
                name: await asyncio.gather(*(one(number, take) for number, take in enumerate(takes)))
                for name, takes in batches.items()
            }


async def _film(
    engine: Engine,
    decoder: VideoDecoder,
    darkroom: ThreadPoolExecutor,
    take: Take,
    keeps_frames: bool,
    report: Callable[[], object],
) -> Clip:
    loop = asyncio.get_running_loop()
    state, parts, receipts = decoder.open(), [], []
    session = await engine.open(
        SessionRequest(
            prompts=take.prompts,
            seed=take.seed,
            width=SIZE,
            height=SIZE,
            num_blocks=take.num_blocks,
            switch_mode=take.switch_mode,
        )
    )
    async for event in session:
        match event:
            case LatentBlock():
                pixels = await loop.run_in_executor(darkroom, decoder.decode, state, event.latents)
                parts.append(pixels.numpy())
                report()
            case PromptApplied():
                receipts.append(event)
    frames = np.concatenate(parts)
    track = await loop.run_in_executor(darkroom, measure, frames)
    return Clip(take, track, receipts, frames if keeps_frames else None)
