"""Frames of one block in, one fragmented-MP4 segment out, part by part, with no wait for the next block."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.packet import Packet
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cascade_core.errors import CascadeError, InvalidConfig
from services.decoder.video_settings import VideoSettings

TIMESCALE = 90_000
"""Ticks per second of all segments. Common rates (16, 24, 25, 30, 30000/1001) are whole ticks per frame."""

MUXER_OPTIONS = {
    "movflags": "empty_moov+default_base_moof+frag_custom+frag_discont+skip_trailer",
    "avoid_negative_ts": "disabled",
    "use_editlist": "0",
    "video_track_timescale": str(TIMESCALE),
    "fflags": "+bitexact",  # else the init segment names libavformat's version: pods of two releases differ
}
# Without these, SIMD rounds as the processor likes.
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True)
class MediaPart:
    """Some pictures of a block: a `moof` and its `mdat`. The first of a block starts with its only IDR frame;
    all of them in order are its segment."""

    data: bytes
    first_frame: int
    """Of the session, from 0; the fragment's sequence number is one more."""
    num_frames: int


class SegmentEncoder:
    """Encodes H.264 (yuv420p, BT.709). Keeps nothing between blocks.

    Each block gets an encoder and a muxer of its own, so a segment depends on the settings, the frames and
    their place alone: whoever makes block n, after whatever loss, makes the same bytes (with x264; NVENC
    does not promise it). An error leaves the encoder usable, and one may serve any number of sessions of
    equal settings. Calls block, for a CPU's time: keep them off the event loop.
    """

    init_segment: bytes
    """`ftyp` and `moov`, to be sent before any segment; equal for equal settings."""

    def __init__(self, settings: VideoSettings) -> None:
        """Raises InvalidConfig where this machine cannot encode so."""
        self.settings = settings
        file = BytesIO()
        try:
            with _open(file, settings, fragment=0):
                self.init_segment = file.getvalue()
        except (av.FFmpegError, UnknownCodecError) as error:
            raise InvalidConfig(_why_unusable(settings, error)) from error

    @property
    def mime_type(self) -> str:
        """What a browser's MediaSource wants to know, as `video/mp4; codecs="avc1.64001e"`."""
        # avcC: version, then profile, compatibility and level
        record = self.init_segment.index(b"avcC") + len(b"avcC")
        return f'video/mp4; codecs="avc1.{self.init_segment[record + 1 : record + 4].hex()}"'

    @contextmanager
    def block(self, index: int, first_frame: int) -> Iterator["BlockEncoder"]:
        """Begin the block `index`, before which the session has `first_frame` pictures.

        Raises CascadeError when the encoder fails.
        """
        try:
            with _open(BytesIO(), self.settings, fragment=0) as (_, stream):
                yield BlockEncoder(self.settings, self.init_segment, stream, first_frame)
        except av.FFmpegError as error:
            raise CascadeError(f"cannot encode block {index}: {error.strerror}") from error


class BlockEncoder:
    """One block on its way: pictures in, parts out."""

    def __init__(
        self, settings: VideoSettings, init_segment: bytes, stream: VideoStream, first_frame: int
    ) -> None:
        """`stream`: of a container that gets nothing; only its encoder is used."""
        self._settings = settings
        self._init_segment = init_segment
        self._stream = stream
        self._first_frame = first_frame
        self._num_taken = self._num_given = 0

    def encode(self, frames: NDArray[np.uint8], *, is_last: bool) -> MediaPart:
        """The block's next pictures, RGB [T, H, W, 3], as a part. An encoder that holds some back has them in
        a later part, at the latest in the last."""
        settings = self._settings
        assert frames.dtype == np.uint8
        assert len(frames)
        assert frames.shape[1:] == (settings.height, settings.width, 3), frames.shape
        # The encoder counts from 0 in every block; only the container knows the session's time.
        packets = []
        for picture in _to_yuv(frames, self._num_taken, settings.fps):
            packets += self._stream.encode(picture)
        packets += self._stream.encode(None) if is_last else []
        self._num_taken += len(frames)
        first = self._first_frame + self._num_given
        self._num_given += len(packets)
        return MediaPart(self._mux(packets, first) if packets else b"", first, len(packets))

    def _mux(self, packets: "list[Packet[VideoStream]]", first_frame: int) -> bytes:
        file, fps = BytesIO(), self._settings.fps
        with _open_muxer(file, first_frame) as container:
            stream = container.add_stream_from_template(self._stream)
            container.start_encoding()
            for frame, packet in enumerate(packets, first_frame):
                packet.pts = packet.dts = ticks(frame, fps)
                packet.duration = ticks(frame + 1, fps) - packet.pts
                packet.time_base = Fraction(1, TIMESCALE)
                packet.stream = stream
                container.mux(packet)
        content = file.getvalue()
        assert content.startswith(self._init_segment), "equal settings, another init segment"
        return content[len(self._init_segment) :]


def ticks(frame: int, fps: Fraction) -> int:
    """Presentation time of a frame. Counted from the session's start, so that rounding never adds up."""
    return frame * TIMESCALE * fps.denominator // fps.numerator


def _open_muxer(file: BytesIO, fragment: int) -> OutputContainer:
    """A muxer that writes the init segment into `file` when it starts, and one fragment of all packets at its
    end.

    One that lives on would hold a fragment back until the next keyframe.
    """
    options = MUXER_OPTIONS | {"fragment_index": str(fragment + 1)}
    return av.open(file, "w", format="mp4", container_options=options)


@contextmanager
def _open(
    file: BytesIO, settings: VideoSettings, fragment: int
) -> Iterator[tuple[OutputContainer, VideoStream]]:
    """A muxer that has written the init segment, with an encoder."""
    with _open_muxer(file, fragment) as container:
        stream = container.add_stream(settings.encoder, settings.fps, settings.encoder_options())
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
        codec = stream.codec_context
        codec.time_base, codec.thread_count = 1 / settings.fps, settings.threads
        # Without the tags players guess the matrix from the picture size and shift the colours.
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        container.start_encoding()
        yield container, stream


def _to_yuv(frames: NDArray[np.uint8], first: int, fps: Fraction) -> Iterator[av.VideoFrame]:
    """`first`: place of the first picture in its block."""
    converter = VideoReformatter()
    for index, pixels in enumerate(frames, first):
        picture = converter.reformat(
            av.VideoFrame.from_ndarray(pixels, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=EXACT,
            threads=1,  # by default one for every core, started anew for each block
        )
        picture.pts, picture.time_base = index, 1 / fps
        yield picture


def _why_unusable(settings: VideoSettings, error: Exception) -> str:
    if settings.codec == "h264_nvenc":
        advice = "needs an NVIDIA GPU with NVENC (A100 and H100 have none) and its driver; use h264"
    else:
        advice = f"cannot encode {settings.width}x{settings.height} at {settings.fps} fps here"
    return f"codec: {settings.codec} {advice} ({error})"
