"""Pictures as arrays, with their times; nothing of it where the extra is not installed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from cascade_client import Client, Event, MediaInit, Segment, Stream
from tests.services.support.fake_gateway import BLOCK_FRAMES, FPS, SIDE, FakeGateway, Script, serving

WAIT_S = 30.0


@asynccontextmanager
async def streaming(script: Script | None = None, **spec: Any) -> AsyncIterator[tuple[FakeGateway, Stream]]:
    async with asyncio.timeout(WAIT_S), serving(script) as gateway, Client(gateway.address) as client:
        session = await client.create("a red circle", **spec)
        async with client.connect(session) as stream:
            yield gateway, stream


async def test_every_picture_comes_once_with_its_time() -> None:
    told: list[Event] = []
    async with streaming(Script(lose_before=[3]), num_blocks=4) as (gateway, stream):
        frames = [frame async for frame in stream.frames(told.append)]
    assert gateway.seen.acks[-1] == 4
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(4 * BLOCK_FRAMES - 3) / FPS)
    assert {(frame.image.shape, frame.image.dtype.name) for frame in frames} == {((SIDE, SIDE, 3), "uint8")}
    greys = [round(frame.image.mean()) for frame in frames if frame.sequence == 4]
    assert greys == pytest.approx([16 * 3] * BLOCK_FRAMES, abs=3), "block 3 has this grey"
    assert [event.sequence for event in told if isinstance(event, Segment)] == [1, 2, 3, 4]


async def test_pictures_after_other_events() -> None:
    """What a decoder needs first came while events were read."""
    async with streaming(num_blocks=3) as (_, stream):
        async for event in stream:
            if isinstance(event, Segment):
                break
        assert isinstance(stream.media_init, MediaInit)
        assert [frame.sequence async for frame in stream.frames()] == [2] * 12 + [3] * 12


async def test_no_more_than_one_segment_is_decoded_ahead() -> None:
    """Who stops taking pictures stops the making: nothing is acknowledged before it was taken."""
    async with streaming() as (gateway, stream):
        frames = stream.frames()
        for _ in range(BLOCK_FRAMES):  # three of the second segment
            await anext(frames)
        await stream.switch("a blue square")  # an answer later than an ack sent before
        assert set(gateway.seen.acks) == {1}
