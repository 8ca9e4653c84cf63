"""A session's video to a file that is whole at every moment, or to a pipe."""

import asyncio
import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cascade_client.errors import CannotSave, EndedEarly
from cascade_client.events import Ended, Event, MediaInit, Segment
from cascade_client.stream import Stream


@dataclass(frozen=True)
class Saved:
    """What a file holds."""

    path: Path
    num_segments: int = 0
    num_frames: int = 0
    num_bytes: int = 0
    duration_s: float = 0.0
    ended: Ended | None = None
    """How the session ended; None: it has not."""


ROUNDING_S = 1e-6
ENDED_EARLY = ("FAILED", "EVICTED")
Progress = Callable[[Event, Saved], None]
"""Called with every event, after what it holds was stored."""
STANDARD_OUTPUT = Path("-")


class Mp4File:
    """Grows under a hidden name beside `path`. Only whole segments count, so that it always plays.

    What is no ordinary file (`-` for standard output, a pipe, a device) is written to as it is.
    """

    def __init__(self, path: Path, init: MediaInit | None = None) -> None:
        """`init`: what the stream had brought before. Raises CannotSave where nothing can be written. Blocks,
        as all of it does."""
        check_path(path)
        self.path = path
        self.saved = Saved(path)
        self._partial = None if is_piped(path) else path.with_name(f".{path.name}.{os.getpid()}.part")
        self._init: MediaInit | None = None
        into = os.dup(sys.stdout.fileno()) if path == STANDARD_OUTPUT else self._partial or path
        try:
            self._file = open(into, "wb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise CannotSave(f"cannot write {path}: {error.strerror}") from None
        if init:
            self.add(init)

    def add(self, event: MediaInit | Segment) -> None:
        """Raises CannotSave; what was stored before it stays whole."""
        if isinstance(event, MediaInit):
            if self._init and self._partial:
                raise CannotSave("the video's form changed in the middle; one file cannot hold both")
            self._init = event
        self._write(event.data)
        self.saved = replace(self.saved, num_bytes=self.saved.num_bytes + len(event.data))
        if isinstance(event, Segment):
            self.saved = replace(
                self.saved,
                num_segments=self.saved.num_segments + 1,
                num_frames=self.saved.num_frames + event.num_frames,
                duration_s=self.saved.duration_s + event.duration_s,
            )

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._partial:
                self._file.truncate(self.saved.num_bytes)
            why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            raise CannotSave(f"cannot write {self.path}: {why}") from None

    def close(self, *, is_complete: bool) -> None:
        """Give the file its name. One that broke off does not replace a former file: see `saved.path`."""
        try:
            with self._file:
                if self._partial is None:
                    return
                os.fsync(self._file.fileno())
            if not self.saved.num_segments:
                self._partial.unlink()
                return
            if not is_complete and self.path.exists():
                path = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
                self.saved = replace(self.saved, path=path)
            self._partial.replace(self.saved.path)
            sync_folder(self.saved.path.parent)
        except OSError as error:
            raise CannotSave(f"cannot write {self.path}: {error.strerror}") from None


def check_path(path: Path) -> None:
    """Raises CannotSave where it cannot be a file."""
    if path == STANDARD_OUTPUT:
        return
    if path.is_dir():
        raise CannotSave(f"{path} is a folder")
    if not path.parent.is_dir():
        raise CannotSave(f"cannot write {path}: there is no folder {path.parent}")


def is_piped(path: Path) -> bool:
    """Whether it is written to as it is: it can neither be renamed nor cut short."""
    return path == STANDARD_OUTPUT or (os.path.exists(path) and not os.path.isfile(path))


def sync_folder(folder: Path) -> None:
    """Make a rename last."""
    if os.name == "nt":  # opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def save(
    stream: Stream, path: str | Path, progress: Progress | None = None, *, seconds: float | None = None
) -> Saved:
    """Write the video into an MP4 until the session ends, or until so many `seconds` of it are stored, whole
    segments all. A segment is acknowledged when it is written.
    `path` may be `-`, standard output, or a pipe; a reader that goes away raises BrokenPipeError.

        async with client.connect(session) as stream:
            saved = await save(stream, "video.mp4")

    The file gets its name at the end. Broken off by whatever (a session that fails, an error of the stream, a
    cancellation, a full disk) it keeps the segments that are whole and gets its name too, or
    `NAME.partial.mp4` where a file of that name exists; a note on the exception says which. Raises
    CannotSave, EndedEarly, and what iterating the stream raises. After `seconds` stream and session go on:
    iterate it further, save the next file, or `stream.end()`.
    """
    file = await asyncio.to_thread(Mp4File, Path(path), stream.media_init)
    try:
        await _fill(file, stream, progress, seconds)
    except CannotSave as error:
        await _close(file, is_complete=False)
        raise CannotSave(f"{error}; {what_is_kept(file.saved)}") from None
    except BaseException as error:
        await _close(file, is_complete=False)
        error.add_note(what_is_kept(file.saved))
        raise
    ended = file.saved.ended
    is_complete = ended is None or ended.reason not in ENDED_EARLY
    await _close(file, is_complete=is_complete)
    if ended and not (is_complete and file.saved.num_segments):
        raise EndedEarly(ended.reason, ended.error, what_is_kept(file.saved))
    return file.saved


async def _fill(file: Mp4File, stream: Stream, progress: Progress | None, seconds: float | None) -> None:
    async for event in stream:
        if isinstance(event, MediaInit | Segment):
            await asyncio.to_thread(file.add, event)
        elif isinstance(event, Ended):
            file.saved = replace(file.saved, ended=event)
        if progress:
            progress(event, file.saved)
        if seconds is not None and file.saved.duration_s >= seconds - ROUNDING_S:
            return


async def _close(file: Mp4File, *, is_complete: bool) -> None:
    """Runs to its end even if the caller is cancelled."""
    await asyncio.shield(asyncio.to_thread(file.close, is_complete=is_complete))


def what_is_kept(saved: Saved) -> str:
    """For people."""
    if not saved.num_segments:
        return "nothing was stored"
    if is_piped(saved.path):
        return f"the first {saved.duration_s:.1f} s were written"
    return f"{saved.path} holds the first {saved.duration_s:.1f} s and plays"
