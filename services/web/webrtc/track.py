"""What a peer is sent: packets, each when it is due."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from aiortc import MediaStreamTrack

from services.web.webrtc.pace import Pace
from services.web.webrtc.packets import VideoPacket

CLOCK_HZ = 90_000


@dataclass(frozen=True)
class Playing:
    """What a track has. Times are the session's, in seconds."""

    playhead_s: float = 0.0
    """Of the newest picture that has left."""
    buffered_s: float = 0.0
    """What can follow without receiving more."""
    is_waiting: bool = True
    """Nothing is left, or nothing has left yet."""


Sent = Callable[[], object]
"""Called when the last packet of a segment has left."""
Told = Callable[[Playing], object]
"""Called when there is more than before, when nothing is left, when it goes on, and before each `Sent`."""


class PacketTrack(MediaStreamTrack):
    """Fed from the loop that it lives in."""

    kind = "video"

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told
        self._packets: deque[tuple[VideoPacket, Sent | None]] = deque()
        self._arrived = asyncio.Event()
        self._pace = Pace()
        self._playhead_s = self._end_s = 0.0
        self._is_waiting = True

    def put(self, packets: Sequence[VideoPacket], sent: Sent) -> None:
        """A segment's. How many wait is the caller's to bound, by `sent`."""
        for packet in packets[:-1]:
            self._packets.append((packet, None))
        last = packets[-1]
        self._packets.append((last, sent))
        self._end_s = time_s(last) + float((last.duration or 0) * timescale(last))
        self._arrived.set()
        self._tell()

    async def recv(self) -> VideoPacket:
        if not self._packets:
            await self._more()
        packet, sent = self._packets.popleft()
        now_s, starts_s = asyncio.get_running_loop().time(), time_s(packet)
        due_s = self._pace.due_s(starts_s, now_s)
        await asyncio.sleep(due_s - now_s)
        packet.time_base = Fraction(1, CLOCK_HZ)
        packet.pts = packet.dts = round(self._pace.since_start_s(due_s) * CLOCK_HZ)
        goes_on, self._is_waiting, self._playhead_s = self._is_waiting, False, starts_s
        if goes_on or sent:
            self._tell()
        if sent:
            sent()
        return packet

    async def _more(self) -> None:
        self._arrived.clear()
        if not self._is_waiting:
            now_s = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(self._pace.due_s(self._end_s, now_s) - now_s):
                    await self._arrived.wait()
            except TimeoutError:
                self._playhead_s, self._is_waiting = self._end_s, True
                self._tell()
        await self._arrived.wait()

    def _tell(self) -> None:
        if self._is_waiting and self._packets:
            self._playhead_s = time_s(self._packets[0][0])
        left_s = max(0.0, self._end_s - self._playhead_s)
        self._told(Playing(self._playhead_s, left_s, self._is_waiting))


def time_s(packet: VideoPacket) -> float:
    """On the session's clock."""
    assert packet.pts is not None
    return float(packet.pts * timescale(packet))


def timescale(packet: VideoPacket) -> Fraction:
    assert packet.time_base
    return packet.time_base
