"""What a player would find in segments: read back with PyAV, and by ffprobe where it is installed."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from services.decoder.segments import MediaPart, SegmentEncoder

needs_ffprobe = pytest.mark.skipif(
    not shutil.which("ffprobe"), reason="a second opinion: ffprobe is not installed (apt-get install ffmpeg)"
)

NAL_SLICE, NAL_IDR = 1, 5
CONTAINER_BOXES = (b"moov", b"trak", b"mdia", b"moof", b"traf")


@dataclass(frozen=True)
class Fragment:
    """What a `moof` says, or the several of a segment."""

    sequence_number: int
    """Of its first."""
    decode_ticks: int
    durations_ticks: tuple[int, ...]
    """One for each sample."""

    @property
    def end_ticks(self) -> int:
        return self.decode_ticks + sum(self.durations_ticks)


@dataclass(frozen=True)
class Sample:
    """One demuxed frame."""

    pts: int
    dts: int
    duration: int
    nal_types: tuple[int, ...]


def boxes(data: bytes, path: tuple[bytes, ...] = ()) -> Iterator[tuple[tuple[bytes, ...], bytes]]:
    """All boxes of an MP4 as (path of types, payload), containers before what they contain."""
    position = 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        assert 8 <= size <= len(data) - position, f"box of {size} bytes at {position} of {len(data)}"
        here, payload = (*path, data[position + 4 : position + 8]), data[position + 8 : position + size]
        yield here, payload
        if here[-1] in CONTAINER_BOXES:
            yield from boxes(payload, here)
        position += size


def encoded(
    encoder: SegmentEncoder, pictures: NDArray[np.uint8], *, index: int, first_frame: int
) -> list[MediaPart]:
    """The parts of a block, as a Wan VAE gives its pictures: four for each latent, one for the very first."""
    number = len(pictures)
    starts = [0, *range(number % 4 or 4, number, 4)]
    with encoder.block(index, first_frame) as block:
        return [
            block.encode(pictures[start:end], is_last=end == number)
            for start, end in pairwise([*starts, number])
        ]


def chunks(segment: bytes) -> Iterator[bytes]:
    """Each `moof` with its `mdat`: the parts of a segment."""
    start = at = 0
    while at < len(segment):
        kind, size = segment[at + 4 : at + 8], int.from_bytes(segment[at : at + 4], "big")
        assert kind == (b"moof" if at == start else b"mdat")
        at += size
        if kind == b"mdat":
            yield segment[start:at]
            start = at


def fragment(segment: bytes) -> Fragment:
    """Parse a segment: what its parts say together."""
    first, *others = (_fragment(chunk) for chunk in chunks(segment))
    durations = list(first.durations_ticks)
    for each in others:
        assert each.decode_ticks == first.decode_ticks + sum(durations)
        assert each.sequence_number == first.sequence_number + len(durations)
        durations += each.durations_ticks
    return Fragment(first.sequence_number, first.decode_ticks, tuple(durations))


def _fragment(chunk: bytes) -> Fragment:
    """Parse one `moof` and one `mdat` (ISO/IEC 14496-12, 8.8)."""
    found = {path[-1]: payload for path, payload in boxes(chunk)}
    assert [path[0] for path, _ in boxes(chunk) if len(path) == 1] == [b"moof", b"mdat"]
    header, times = found[b"tfhd"], found[b"tfdt"]
    assert int.from_bytes(header[1:4], "big") & 0x20008 == 0x20008, "no default duration, or base not moof"
    default = int.from_bytes(header[8:12], "big")
    return Fragment(
        sequence_number=int.from_bytes(found[b"mfhd"][4:8], "big"),
        decode_ticks=int.from_bytes(times[4:], "big"),
        durations_ticks=tuple(_sample_durations(found[b"trun"], default)),
    )


def _sample_durations(trun: bytes, default: int) -> Iterator[int]:
    flags, num_samples = int.from_bytes(trun[1:4], "big"), int.from_bytes(trun[4:8], "big")
    fields = [bit for bit in (0x100, 0x200, 0x400, 0x800) if flags & bit]
    position = 8 + 4 * bool(flags & 0x1) + 4 * bool(flags & 0x4)
    for _ in range(num_samples):
        stated = trun[position : position + 4] if 0x100 in fields else b""
        yield int.from_bytes(stated, "big") if stated else default
        position += 4 * len(fields)
    assert position == len(trun)


def samples(video: bytes) -> list[Sample]:
    """Demux with FFmpeg; NAL types tell an IDR from what a demuxer only believes to be a keyframe."""
    with av.open(BytesIO(video)) as container:
        return [
            Sample(packet.pts, packet.dts, packet.duration or 0, tuple(_nal_types(bytes(packet))))
            for packet in container.demux(video=0)
            if packet.size and packet.pts is not None and packet.dts is not None
        ]


def _nal_types(packet: bytes) -> Iterator[int]:
    position = 0
    while position < len(packet):
        yield packet[position + 4] & 0x1F
        position += 4 + int.from_bytes(packet[position : position + 4], "big")
    assert position == len(packet)


def decode(video: bytes) -> NDArray[np.uint8]:
    """All frames as RGB [T, H, W, 3], converted as the video's own colour tags say."""
    with av.open(BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def assert_gapless(init: bytes, segments: Sequence[bytes], num_frames: Sequence[int], fps: Fraction) -> None:
    """The segments with these frame counts are one valid video from wherever the first of them starts.

    By the boxes and by FFmpeg's demuxer: exact frame count, no gap, no overlap, no drift, every segment
    starts with its only IDR; then all of it decodes.
    """
    video = init + b"".join(segments)
    fragments = [fragment(segment) for segment in segments]
    assert [len(each.durations_ticks) for each in fragments] == list(num_frames)
    for one, following in pairwise(fragments):
        assert following.decode_ticks == one.end_ticks
        assert following.sequence_number == one.sequence_number + len(one.durations_ticks)

    found = samples(video)
    assert len(found) == sum(num_frames)
    starts = np.cumsum([0, *num_frames])[:-1]
    for index, sample in enumerate(found):
        slices = [kind for kind in sample.nal_types if kind in (NAL_SLICE, NAL_IDR)]
        assert set(slices) == {NAL_IDR if index in starts else NAL_SLICE}, f"frame {index}"
        assert sample.pts == sample.dts
        assert abs(sample.pts - found[0].pts - index * 90_000 / fps) <= 1, f"frame {index}"
    for before, after in pairwise(found):
        assert after.pts == before.pts + before.duration
    assert found[-1].pts + found[-1].duration == fragments[-1].end_ticks
    assert len(decode(video)) == sum(num_frames)


def ffprobe(path: Path) -> dict[str, Any]:
    """Streams and packets as ffprobe sees them; any complaint of it fails."""
    command = ["ffprobe", "-v", "warning", "-count_frames", "-show_streams", "-show_packets", "-of", "json"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=120, check=True)
    assert not done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report
