"""Segments of fragmented MP4 as packets that WebRTC can carry."""

from io import BytesIO
from typing import TypeAlias

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

VideoPacket: TypeAlias = "Packet[VideoStream]"


def packets_of(init: bytes, segment: bytes) -> list[VideoPacket]:
    """One for each picture, with its time in the session. Blocks for a moment; raises av.FFmpegError.

    MP4 has lengths before what WebRTC separates by start codes, and keeps the parameter sets that it wants
    before each IDR picture outside.
    """
    with av.open(BytesIO(init + segment), "r") as container:
        source = container.streams.video[0]
        to_annex_b = BitStreamFilterContext("h264_mp4toannexb", source)
        return [
            part for packet in container.demux(source) if packet.size for part in to_annex_b.filter(packet)
        ]
