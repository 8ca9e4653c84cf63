"""Frames to an ordinary MP4 file."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from torch import Tensor

from cascade_core.errors import CascadeError, InvalidConfig
from cascade_core.media.piped import STANDARD_OUTPUT, is_piped


def partial_path(path: Path, pid: int) -> Path:
    """Where process `pid` writes what becomes `path` when it is complete."""
    return path.with_name(f".{path.name}.{pid}.part")


class Mp4Writer:
    """Writes H.264 (yuv420p, BT.709) into a faststart MP4 as frames arrive; into what is no ordinary file
    (`piped.py`) in fragments.

    The file grows under a hidden name beside `path` and gets its final name at the end, so `path` is at
    any time either absent (or the former file) or complete. Use it in a `with` block: leaving it completes
    the file, leaving it by an exception removes what was written. Where the process itself is killed,
    whoever killed it removes `partial_path`.

    Raises InvalidConfig when `path` cannot be written, CascadeError when the disk is full or fails later
    on, or when the block ends without a single frame.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        """Sizes are in pixels and even."""
        if not os.path.isdir(path.parent):  # unlike Path.is_dir, no error for a name that is too long
            raise InvalidConfig(f"output {path}: the folder {path.parent} does not exist")
        if os.path.isdir(path):
            raise InvalidConfig(f"output {path}: is a folder")
        self.path = path
        self.num_frames = 0
        self._is_piped = is_piped(path)
        self._partial = path if self._is_piped else partial_path(path, os.getpid())
        target = "pipe:1" if path == STANDARD_OUTPUT else str(self._partial)
        flags = "+frag_keyframe+empty_moov+default_base_moof" if self._is_piped else "+faststart"
        self._container = av.open(target, "w", format="mp4", options={"movflags": flags})
        self._stream = self._container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18", "preset": "veryfast"}
        )
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        # Without the tags players guess the matrix from the picture size and shift the colours.
        codec = self._stream.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        try:
            self._container.start_encoding()  # opens the file, so a bad path fails before the first frame
        except OSError as error:
            self._discard()
            raise InvalidConfig(f"output {path}: {error.strerror}") from None

    def append(self, frames: Tensor) -> None:
        """Add frames, uint8 RGB [T, H, W, 3] on the CPU."""
        for pixels in frames.numpy():
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts = self.num_frames
            self._encode(frame)
            self.num_frames += 1

    def _finish(self) -> None:
        if not self.num_frames:
            raise CascadeError(f"cannot write {self.path}: there are no frames")
        self._encode(None)
        try:
            self._container.close()
            if not self._is_piped:
                self._partial.replace(self.path)
        except OSError as error:
            raise self._failure(error) from error

    def _discard(self) -> None:
        # The file goes anyway, and whatever brought us here is the error to show.
        with suppress(OSError):
            self._container.close()
        with suppress(OSError):
            if not self._is_piped:
                self._partial.unlink()

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> CascadeError:
        return CascadeError(f"cannot write {self.path}: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise
