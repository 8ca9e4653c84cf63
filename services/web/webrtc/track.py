"""What a peer is sent: packets, each when it is due."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction

from aiortc import MediaStreamTrack

from services.web.webrtc.pace import Pace
from services.web.webrtc.packets import VideoPacket

CLOCK_HZ = 90_000
Sent = Callable[[], object]
"""Called when the last packet of a segment has left."""


class PacketTrack(MediaStreamTrack):
    """Fed from the loop that it lives in."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._packets: deque[tuple[VideoPacket, Sent | None]] = deque()
        self._arrived = asyncio.Event()
        self._pace = Pace()

    def put(self, packets: Sequence[VideoPacket], sent: Sent) -> None:
        """A segment's. How many wait is the caller's to bound, by `sent`."""
        for packet in packets[:-1]:
            self._packets.append((packet, None))
        self._packets.append((packets[-1], sent))
        self._arrived.set()

    async def recv(self) -> VideoPacket:
        while not self._packets:
            self._arrived.clear()
            await self._arrived.wait()
        packet, sent = self._packets.popleft()
        assert packet.pts is not None
        assert packet.time_base
        now_s = asyncio.get_running_loop().time()
        due_s = self._pace.due_s(float(packet.pts * packet.time_base), now_s)
        await asyncio.sleep(due_s - now_s)
        packet.time_base = Fraction(1, CLOCK_HZ)
        packet.pts = packet.dts = round(self._pace.since_start_s(due_s) * CLOCK_HZ)
        if sent:
            sent()
        return packet
