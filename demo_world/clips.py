"""Clips of the demo model, made the way the product makes them: engine, sessions, streamed decoder."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import numpy as np
import torch

from cascade_core.config import EngineConfig, SwitchMode
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import LatentBlock, PromptApplied
from cascade_core.request import SessionRequest
from demo_world.darkroom import Darkroom, Latents, Picture
from demo_world.score import Scores, judge
from demo_world.world import SIZE, Frames, Scene, World, block_frames

MAX_OPEN = 4
"""Sessions open at once on each engine, so that it works while the last clip is decoded."""
WARM_UP = 3
"""Blocks that the decoder sees before a stretch in the middle of a clip: its pictures are then as in the
whole clip, to one level of 255 in float32 and three in bfloat16."""


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
    stretches: tuple[range, ...] = ()
    """Blocks that are decoded and looked at; empty: all."""
    given: tuple[Scene, ...] = ()
    """What the world draws before block 0, by block: the clip goes on from there, and its pictures begin with
    the last of those."""
    given_prompt: str = ""
    """The words for it."""


@dataclass(frozen=True)
class Clip:
    """A clip that was made."""

    take: Take
    pictures: Sequence[Picture]
    """Of each stretch."""
    receipts: Sequence[PromptApplied]

    @property
    def frames(self) -> Frames | None:
        """Of all stretches; None where nobody will look at them."""
        parts = [picture.frames for picture in self.pictures if picture.frames is not None]
        return np.concatenate(parts) if parts else None

    def scores(self, scene: Scene, first_block: int = 0, end_block: int | None = None) -> Scores:
        """Of blocks first_block..end_block - 1 of a clip that was decoded from its beginning."""
        end = None if end_block is None else first_frame(end_block)
        return judge(self.pictures[0].track, scene, first_frame(first_block), end)


def first_frame(block: int) -> int:
    """Number of the block's first frame, from 0."""
    return sum(block_frames(index) for index in range(block))


@asynccontextmanager
async def engines(config: EngineConfig, count: int) -> AsyncIterator[Sequence[Engine]]:
    """`count` engines side by side. Raises CascadeError; nothing is left running."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await Engine.start(config)) for _ in range(count)]


async def film(
    running: Sequence[Engine],
    darkroom: Darkroom,
    takes: Mapping[int, Take],
    num_kept: int,
    report: Callable[[int, Clip], object],
) -> None:
    """Make numbered takes and report each clip; those of numbers below `num_kept` keep their frames.

    Raises CascadeError.
    """
    waiting = iter(takes.items())

    async def work(engine: Engine) -> None:
        for number, take in waiting:  # which all share
            report(number, await _film(engine, darkroom, take, number < num_kept))

    try:
        async with asyncio.TaskGroup() as group:
            for engine in [*running] * MAX_OPEN:
                group.create_task(work(engine))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _film(engine: Engine, darkroom: Darkroom, take: Take, keeps_frames: bool) -> Clip:
    given = await darkroom.encode(World(take.seed).video(take.given)) if take.given else []
    stretches = take.stretches or (range(take.num_blocks),)
    wanted = {block for stretch in stretches for block in _decoded(stretch)}
    latents: dict[int, Latents] = {}
    receipts = []
    session = await engine.open(_request(engine, take, given))
    async for event in session:
        match event:
            case LatentBlock() if event.index - len(given) in wanted:
                latents[event.index - len(given)] = event.latents.numpy()
            case PromptApplied():
                receipts.append(event)
    if given:
        blocks = [*given, *(latents[block] for block in range(take.num_blocks))]
        picture = await darkroom.develop(blocks, first_frame(len(given)) - 1, keeps_frames)
        return Clip(take, [picture], receipts)
    pictures = [await _develop(darkroom, latents, stretch, keeps_frames) for stretch in stretches]
    return Clip(take, pictures, receipts)


def _request(engine: Engine, take: Take, given: Sequence[Latents]) -> SessionRequest:
    first = len(given)
    before = {0: take.given_prompt} if given else {}
    return SessionRequest(
        prompts=before | {block + first: words for block, words in take.prompts.items()},
        seed=take.seed,
        width=SIZE,
        height=SIZE,
        start_block=first,
        context={block: torch.from_numpy(given[block]) for block in engine.context_blocks(first)},
        num_blocks=take.num_blocks,
        switch_mode=take.switch_mode,
    )


async def _develop(
    darkroom: Darkroom, latents: Mapping[int, Latents], stretch: range, keeps_frames: bool
) -> Picture:
    blocks = _decoded(stretch)
    num_warm_up = stretch.start - blocks.start
    return await darkroom.develop(
        [latents[block] for block in blocks], first_frame(num_warm_up), keeps_frames
    )


def _decoded(stretch: range) -> range:
    """The stretch and the blocks that its decoder must have seen."""
    return range(max(0, stretch.start - WARM_UP), stretch.stop)
