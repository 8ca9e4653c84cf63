"""An MP4 file to pictures of the video's size at the video's speed.

A first walk over the packets says when pictures appear; then those from the last keyframe before the first
wanted one are decoded, and the wanted ones converted, one at a time.
"""

import time
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from cascade_core.errors import UnusableFile
from cascade_core.media.start.checks import DAMAGED, check_size, damage_told
from cascade_core.media.start.fitting import fitted
from cascade_core.media.start.start_file import StartBounds, StartFile, StartShape
from cascade_core.media.start.timing import choose

CODECS = {"h264": "H.264", "hevc": "H.265", "vp9": "VP9", "libdav1d": "AV1", "mpeg4": "MPEG-4"}
"""FFmpeg's decoders that a file may reach, and what people call them."""
TAKEN = "{}, {}, {}, {} or {}".format(*CODECS.values())
CONTAINER = {
    "codec_whitelist": ",".join(CODECS),
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2",
    "protocol_whitelist": "none",
    "enable_drefs": "0",  # no other files, wherever this one points to
    "max_streams": "32",
}
MAX_PIXEL_ASPECT = 4
"""How much wider than high pixels are at most, or higher than wide; others are a mistake: square."""
MARGIN_PIXELS = 2**20
"""Decoders count their margins, too."""
TALL = 720
"""Rows from which colours that are not told are taken for those of HD."""
COLOURS = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""H.273's matrix coefficients in the words of the scaler."""


class Clip:
    """An open file: `num_pictures`, then `pictures`, once."""

    def __init__(self, file: StartFile, shape: StartShape, bounds: StartBounds) -> None:
        """Raises UnusableFile."""
        self._started_s = time.process_time()
        self._fit, self._shape, self._bounds = file.fit, shape, bounds
        with damage_told():
            self._container, self._stream = _open(file, bounds)
            times = self._times()
            chosen = choose([pts * self._base for pts in times], shape, file.last_s)
        self._chosen = [times[index] for index in chosen]
        self.num_pictures = len(chosen)

    @property
    def _base(self) -> Fraction:
        assert self._stream.time_base
        return self._stream.time_base

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """RGB [height, width, 3] each. Raises UnusableFile."""
        with damage_told():
            last: NDArray[np.uint8] | None = None
            wanted = iter(self._chosen)
            due = next(wanted, None)
            for pts, frame in self._frames():
                if due is None:
                    return
                if pts < due:
                    continue
                fresh = self._picture(frame)
                while due is not None and due <= pts:
                    # One that cannot be decoded is stood in for by the one before.
                    yield fresh if last is None or due == pts else last
                    due = next(wanted, None)
                last = fresh
            if due is not None:
                raise UnusableFile(DAMAGED)

    def _times(self) -> list[int]:
        """When pictures appear, ascending, in units of the stream."""
        found: set[int] = set()
        for packet in self._container.demux(self._stream):
            if packet.pts is not None and packet.size and not packet.is_discard:
                found.add(packet.pts)
            if len(found) > self._bounds.max_frames:
                raise UnusableFile(f"has more than {self._bounds.max_frames} pictures")
            self._check_time()
        if not found:
            raise UnusableFile("has no pictures in it")
        times = sorted(found)
        span_s = float((times[-1] - times[0]) * self._base)
        if span_s > self._bounds.max_s:
            raise UnusableFile(f"is {span_s:.1f} s long, must be {self._bounds.max_s:g} s or shorter")
        return times

    def _frames(self) -> Iterator[tuple[int, VideoFrame]]:
        """From the last keyframe before the first wanted picture on, in the order of their times."""
        self._container.seek(self._chosen[0], stream=self._stream)
        for frame in self._container.decode(self._stream):
            self._check_time()
            if frame.pts is not None:
                check_size(frame.width, frame.height, self._bounds.max_video_pixels)
                yield frame.pts, frame

    def _check_time(self) -> None:
        if time.process_time() - self._started_s > self._bounds.max_cpu_s:
            raise UnusableFile(
                f"takes more than {self._bounds.max_cpu_s:g} s to open; send a shorter or smaller one"
            )

    def _picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        picture = Image.fromarray(to_rgb(frame))
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
            aspect = 1.0
        turns = round(frame.rotation / 90) % 4
        if turns:
            picture = picture.transpose(list(TURNS)[turns - 1])
        return fitted(picture, self._shape, self._fit, 1 / aspect if turns % 2 else aspect)


TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
"""Counterclockwise, as FFmpeg counts."""


def to_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """[height, width, 3], by the colours that the file tells, or else those usual for its size."""
    told = int(frame.colorspace)
    usual = Colorspace.ITU709 if frame.height >= TALL else Colorspace.ITU601
    space = COLOURS.get(told, usual)
    picture = frame.reformat(format="rgb24", src_colorspace=space, threads=1)
    return picture.to_ndarray().astype(np.uint8, copy=False)


def _open(file: StartFile, bounds: StartBounds) -> tuple[InputContainer, VideoStream]:
    limits = {"max_pixels": str(bounds.max_video_pixels + MARGIN_PIXELS), "threads": "1"}
    data = BytesIO(file.data)
    container = av.open(data, "r", format="mov", container_options=CONTAINER, options=limits)
    found = [stream for stream in container.streams.video if not is_cover(stream)]
    if not found:
        raise UnusableFile("has no video in it")
    stream = found[0]
    codec = stream.codec_context
    if codec is None or codec.name not in CODECS:
        name = codec.name if codec else "unknown"
        raise UnusableFile(f"has {name} video, must have {TAKEN}")
    check_size(codec.width, codec.height, bounds.max_video_pixels)
    if any(entry.pos + entry.size > len(file.data) for entry in stream.index_entries):
        raise UnusableFile(DAMAGED)
    codec.options, codec.thread_count = limits, 1
    return container, stream


def is_cover(stream: VideoStream) -> bool:
    """Whether it is a picture that a player shows in a list."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)
