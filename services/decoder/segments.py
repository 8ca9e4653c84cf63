"""Frames of one block in, one fragmented-MP4 media segment out, with no delay of a further block."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import chain

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
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
class MediaSegment:
    """One block of video: a `moof` and its `mdat`, starting with an IDR frame."""

    index: int
    """Block of the session, from 0; the fragment's sequence number is one more."""
    data: bytes
    num_frames: int
    start_ticks: int
    """Presentation (and decode) time of the first frame, in 1/TIMESCALE s since the session's first."""
    duration_ticks: int
    """Ends exactly where the next segment starts."""

    @property
    def start_s(self) -> float:
        return self.start_ticks / TIMESCALE

    @property
    def duration_s(self) -> float:
        return self.duration_ticks / TIMESCALE


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
            with _open_fragment(file, settings, index=0):
                self.init_segment = file.getvalue()
        except (av.FFmpegError, UnknownCodecError) as error:
            raise InvalidConfig(_why_unusable(settings, error)) from error

    @property
    def mime_type(self) -> str:
        """What a browser's MediaSource wants to know, as `video/mp4; codecs="avc1.64001e"`."""
        # avcC: version, then profile, compatibility and level
        record = self.init_segment.index(b"avcC") + len(b"avcC")
        return f'video/mp4; codecs="avc1.{self.init_segment[record + 1 : record + 4].hex()}"'

    def encode(self, frames: NDArray[np.uint8], *, index: int, first_frame: int) -> MediaSegment:
        """Encode the block `index`, RGB [T, H, W, 3], before which the session has `first_frame` pictures.

        Raises CascadeError when the encoder fails.
        """
        settings = self.settings
        assert frames.dtype == np.uint8
        assert len(frames)
        assert frames.shape[1:] == (settings.height, settings.width, 3), frames.shape
        file = BytesIO()
        try:
            with _open_fragment(file, settings, index) as (container, stream):
                _encode_frames(container, stream, frames, first_frame, settings.fps)
        except av.FFmpegError as error:
            raise CascadeError(f"cannot encode block {index}: {error.strerror}") from error
        content = file.getvalue()
        assert content.startswith(self.init_segment), "equal settings, another init segment"
        start, end = (ticks(frame, settings.fps) for frame in (first_frame, first_frame + len(frames)))
        return MediaSegment(index, content[len(self.init_segment) :], len(frames), start, end - start)


def ticks(frame: int, fps: Fraction) -> int:
    """Presentation time of a frame. Counted from the session's start, so that rounding never adds up."""
    return frame * TIMESCALE * fps.denominator // fps.numerator


@contextmanager
def _open_fragment(
    file: BytesIO, settings: VideoSettings, index: int
) -> Iterator[tuple[OutputContainer, VideoStream]]:
    """A muxer that has written the init segment into `file`; at the end it adds one fragment of all packets.

    A muxer that lives on would hold a block back until the keyframe of the next.
    """
    options = MUXER_OPTIONS | {"fragment_index": str(index + 1)}
    with av.open(file, "w", format="mp4", container_options=options) as container:
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


def _encode_frames(
    container: OutputContainer,
    stream: VideoStream,
    frames: NDArray[np.uint8],
    first_frame: int,
    fps: Fraction,
) -> None:
    # The encoder counts from 0 in every block; only the container knows the session's time.
    for picture in chain(_to_yuv(frames, fps), [None]):
        for packet in stream.encode(picture):
            assert packet.pts is not None
            frame = first_frame + packet.pts
            packet.pts = packet.dts = ticks(frame, fps)
            packet.duration = ticks(frame + 1, fps) - packet.pts
            packet.time_base = Fraction(1, TIMESCALE)
            container.mux(packet)


def _to_yuv(frames: NDArray[np.uint8], fps: Fraction) -> Iterator[av.VideoFrame]:
    converter = VideoReformatter()
    for index, pixels in enumerate(frames):
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
