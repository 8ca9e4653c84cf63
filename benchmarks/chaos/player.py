"""Plays what comes, without a picture."""

import asyncio
import time

from cascade_client import Segment, Stream

MOST_SEGMENTS = 64


class Player:
    """Acknowledges each segment when its playing begins."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting: asyncio.Queue[Segment] = asyncio.Queue(MOST_SEGMENTS)
        self.task = asyncio.create_task(self._run(), name="player")

    def put(self, segment: Segment) -> None:
        self._waiting.put_nowait(segment)

    async def _run(self) -> None:
        ends_s = 0.0
        while True:
            segment = await self._waiting.get()
            starts_s = max(ends_s, time.monotonic())
            await asyncio.sleep(starts_s - time.monotonic())
            self._stream.ack(segment.sequence)
            ends_s = starts_s + segment.duration_s
