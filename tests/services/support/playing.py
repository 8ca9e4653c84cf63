"""A client that plays a session as a person watches it, and what is to be seen in what it received."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cascade_client import Client, Ended, Event, MediaInit, RecoveryDone, Segment, Session, Stream
from demo_world.motion import steps
from demo_world.score import Track, measure
from tests.services.support.media_support import assert_gapless, decode

FPS = 16
FIRST_FRAMES, BLOCK_FRAMES = 9, 12
"""Pictures of block 0, and of every other block, of the demo model."""
PLAY_S = 120.0
"""Deadline of a whole session."""


@dataclass
class Played:
    """All that a client received."""

    session: str
    events: list[Event] = field(default_factory=list)
    """As they came."""
    arrivals_s: list[float] = field(default_factory=list)
    """When each segment came, on this process's clock."""
    standstills: list[tuple[float, float]] = field(default_factory=list)
    """Each time the picture stood still, because a segment was not there when its time came: when it came, on
    this process's clock, and for how long."""

    def add(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Segment):
            self.arrivals_s.append(time.monotonic())

    @property
    def init(self) -> bytes:
        (init,) = (event.data for event in self.events if isinstance(event, MediaInit))
        return init

    @property
    def segments(self) -> list[Segment]:
        return [event for event in self.events if isinstance(event, Segment)]

    @property
    def video(self) -> bytes:
        return self.init + b"".join(segment.data for segment in self.segments)

    @property
    def standstill_s(self) -> float:
        """How long the picture stood still in all."""
        return sum(seconds for _, seconds in self.standstills)

    @property
    def longest_wait_s(self) -> float:
        """Between two segments that came one after the other."""
        return float(np.diff(self.arrivals_s).max())

    @property
    def recoveries(self) -> list[RecoveryDone]:
        return [event for event in self.events if isinstance(event, RecoveryDone)]

    @property
    def ended(self) -> Ended:
        assert isinstance(self.events[-1], Ended), f"the session went on after {self.events[-1]}"
        return self.events[-1]

    def check(self, num_blocks: int) -> None:
        """The whole video came: each segment once, in order, as one valid file without gap or overlap."""
        self.check_gapless(num_blocks, FPS)
        assert (self.ended.reason, self.ended.last_sequence) == ("COMPLETE", num_blocks)

    def check_gapless(self, num_blocks: int, fps: int) -> None:
        """So many segments came, as `check` says, whatever ended the session."""
        assert [segment.sequence for segment in self.segments] == list(range(1, num_blocks + 1))
        assert [segment.block for segment in self.segments] == list(range(num_blocks))
        num_frames = [FIRST_FRAMES] + [BLOCK_FRAMES] * (num_blocks - 1)
        assert [segment.num_frames for segment in self.segments] == num_frames
        assert_gapless(self.init, [segment.data for segment in self.segments], num_frames, Fraction(fps))

    def track(self) -> Track:
        """What its pictures show."""
        return measure(decode(self.video))


class Player:
    """Acknowledges each segment when its playing begins, as the contract asks of whoever plays."""

    def __init__(self, stream: Stream, session: str, deadline_s: float = PLAY_S) -> None:
        """`deadline_s`: of the whole session."""
        self.played = Played(session)
        self.num_acked = 0
        self._deadline_s = deadline_s
        self._stream = stream
        self._waiting: asyncio.Queue[Segment] = asyncio.Queue(64)
        self._came = asyncio.Condition()

    async def run(self) -> None:
        """Until the session has ended."""
        playing = asyncio.create_task(self._play())
        try:
            async with asyncio.timeout(self._deadline_s):
                async for event in self._stream:
                    await self._take(event)
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

    async def reached(self, sequence: int) -> None:
        """Until that segment has come."""
        async with asyncio.timeout(PLAY_S), self._came:
            await self._came.wait_for(lambda: len(self.played.segments) >= sequence)

    async def _take(self, event: Event) -> None:
        self.played.add(event)
        if isinstance(event, Segment):
            await self._waiting.put(event)
        async with self._came:
            self._came.notify_all()

    async def _play(self) -> None:
        ends_s = 0.0
        while True:
            segment = await self._waiting.get()
            starts_s = max(ends_s, time.monotonic())
            if 0 < ends_s < starts_s:
                self.played.standstills.append((starts_s, starts_s - ends_s))
            await asyncio.sleep(starts_s - time.monotonic())
            self._stream.ack(segment.sequence)
            self.num_acked = segment.sequence
            ends_s = starts_s + segment.duration_s


@asynccontextmanager
async def playing(
    client: Client, session: Session, *, max_unacked: int = 0, deadline_s: float = PLAY_S
) -> AsyncIterator[Player]:
    """A player at work. The `with` ends with the session; an exception leaves it at once."""
    async with client.connect(session, auto_ack=False, max_unacked_segments=max_unacked) as stream:
        player = Player(stream, session.name.removeprefix("sessions/"), deadline_s)
        running = asyncio.create_task(player.run())
        try:
            yield player
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def jumps(track: Track) -> NDArray[np.float64]:
    """Pixels that the shape moved into each frame but the first; unknown places count as infinitely far."""
    lengths = np.linalg.norm(steps(track.places), axis=-1)
    return np.where(np.isnan(lengths), np.inf, lengths)


def psnr_db(played: Played, expected: Played) -> NDArray[np.float64]:
    """[T] of each picture."""
    error = decode(played.video).astype(np.float64) - decode(expected.video)
    return 10 * np.log10(255**2 / np.maximum((error**2).mean((1, 2, 3)), 1e-3))
