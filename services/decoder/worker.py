"""The process that decodes and encodes. Started by `WorkerProcess` as

    python -m services.decoder.worker FILE_DESCRIPTOR

It dies with its service: a thread of its own reads the socket, and the end of the stream is the end of the
process, even in the middle of a block that never returns. An error that is nobody's fault but its own ends
it, too.
"""

import gc
import os
import queue
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cascade_core.errors import CascadeError, InvalidConfig
from cascade_core.ranks.pipe import ChildEnd
from services.decoder.messages import (
    BlockEncoded,
    BlockWarmed,
    Command,
    DecodeBlock,
    DecoderReady,
    DecoderUnusable,
    DropSession,
    EncodePictures,
    LoadDecoder,
    OpenSession,
    PartEncoded,
    PicturesEncoded,
    Piece,
    Ping,
    Pong,
    Reply,
    SessionFailed,
    SessionOpened,
    SessionRefused,
)
from services.decoder.segments import BlockEncoder, SegmentEncoder
from services.decoder.video_settings import VideoSettings

if TYPE_CHECKING:
    from cascade_core.media.video_encoder import EncoderState
    from services.decoder.pictures import PictureDecoder, PictureState

MAX_SEGMENT_BYTES = 8 * 2**20
"""The contract's bound of MediaSegment.data."""
NVENC_TRIAL = VideoSettings(width=256, height=256, codec="h264_nvenc")


Pipe = ChildEnd[Command, Reply]
"""The worker's end of the socket pair."""


@dataclass
class WorkerSession:
    """One session's pictures and its encoders, which may be other sessions' too."""

    state: "PictureState"
    encoders: tuple[SegmentEncoder, ...]


class DecodingWorker:
    """All sessions of one decoder: pictures on this thread, encoding on another beside the next block."""

    def __init__(self, pipe: Pipe, decoder: "PictureDecoder") -> None:
        self._pipe = pipe
        self._decoder = decoder
        self._sessions: dict[int, WorkerSession] = {}
        self._clips: dict[int, EncoderState] = {}
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encoding")

    def handle(self, command: Command) -> None:
        match command:
            case DecodeBlock():
                self._decode(command)
            case OpenSession():
                self._open(command)
            case EncodePictures():
                self._encode_pictures(command)
            case DropSession():
                self._sessions.pop(command.session, None)
                self._clips.pop(command.session, None)
            case Ping():
                self._pipe.send(Pong())

    def _open(self, command: OpenSession) -> None:
        encoders = []
        for index, settings in enumerate(command.profiles):
            try:
                encoders.append(SegmentEncoder(settings))
            except InvalidConfig as error:
                self._pipe.send(SessionRefused(command.session, f"open.profiles[{index}]", str(error)))
                return
        self._sessions[command.session] = WorkerSession(self._decoder.open(), tuple(encoders))
        inits = tuple((encoder.mime_type, encoder.init_segment) for encoder in encoders)
        self._pipe.send(SessionOpened(command.session, inits))

    def _decode(self, block: DecodeBlock) -> None:
        started_s = time.monotonic()
        session = self._sessions.get(block.session)
        if session is None:  # it was refused while this block was on its way
            self._pipe.send(SessionFailed(block.session, "the session is not open"))
            return
        pictures = self._decoder.decode(session.state, block)
        if pictures is None:
            wrong = "all numbers must be finite"
            self._pipe.send(SessionRefused(block.session, "block.latents.data", wrong, is_media=False))
        elif block.is_warmup:
            deque(pictures, maxlen=0)
            self._pipe.send(BlockWarmed(block.session, block.block))
        else:
            work = BlockWork(block, session.encoders, started_s)
            self._encoding.submit(work.encode, self._pipe.send).add_done_callback(self._answer)
            for each in pictures:
                work.add(each)

    def _encode_pictures(self, job: EncodePictures) -> None:
        if job.session not in self._clips:
            self._clips[job.session] = self._decoder.open_encoder()
        latents = self._decoder.encode(self._clips[job.session], job)
        self._pipe.send(PicturesEncoded(job.session, latents))

    def _answer(self, task: "Future[Reply]") -> None:
        reply = or_die(task.result)
        self._pipe.send(reply)


class BlockWork:
    """One block between its decoding, on one thread, and its encoding, on another."""

    def __init__(self, block: DecodeBlock, encoders: Sequence[SegmentEncoder], started_s: float) -> None:
        self._block = block
        self._encoders = encoders
        self._started_s = started_s
        self._decode_s = 0.0
        self._pictures = queue.SimpleQueue[NDArray[np.uint8]]()
        """One for each latent frame."""

    def add(self, pictures: NDArray[np.uint8]) -> None:
        """Of the next latent frame."""
        self._decode_s = time.monotonic() - self._started_s
        self._pictures.put(pictures)

    def encode(self, tell: Callable[[PartEncoded], None]) -> Reply:
        """Every profile of the block, each part told as soon as it is there."""
        try:
            return self._encode(tell)
        except CascadeError as error:
            return SessionFailed(self._block.session, str(error))

    def _encode(self, tell: Callable[[PartEncoded], None]) -> Reply:
        """Raises CascadeError."""
        block, num_latents = self._block, self._block.shape[0]
        index, first_frame = place_of(block)
        pieces = [Piece(b"", 0.0)] * len(self._encoders)
        num_frames, is_prompt = 0, True
        with ExitStack() as stack:
            encoders = [stack.enter_context(each.block(index, first_frame)) for each in self._encoders]
            for number in range(num_latents):
                pictures, is_last = self._pictures.get(), number == num_latents - 1
                parts = [encode_part(encoder, pictures, is_last=is_last) for encoder in encoders]
                pieces = [former + piece for former, (_, piece) in zip(pieces, parts, strict=True)]
                if refusal := self._refusal(index, pieces):
                    return refusal
                # An encoder that holds pictures back has no parts worth sending.
                is_prompt &= all(num == len(pictures) for num, _ in parts)
                if is_prompt:
                    data = tuple(piece.data for _, piece in parts)
                    place = index, number, first_frame + num_frames, len(pictures)
                    tell(PartEncoded(block.session, *place, data))
                num_frames += len(pictures)
        times = self._started_s - block.arrived_s, self._decode_s
        return BlockEncoded(block.session, index, first_frame, num_frames, tuple(pieces), *times)

    def _refusal(self, index: int, pieces: Sequence[Piece]) -> SessionRefused | None:
        """Where no message holds the segment."""
        for profile, piece in enumerate(pieces):
            if (size := len(piece.data)) > MAX_SEGMENT_BYTES:
                wrong = f"block {index} takes {size} bytes, more than {MAX_SEGMENT_BYTES}: set it lower"
                return SessionRefused(self._block.session, f"open.profiles[{profile}].bitrate_kbps", wrong)
        return None


def encode_part(encoder: BlockEncoder, pictures: NDArray[np.uint8], *, is_last: bool) -> tuple[int, Piece]:
    """How many pictures came out, and they. Raises CascadeError."""
    started_s = time.monotonic()
    part = encoder.encode(pictures, is_last=is_last)
    return part.num_frames, Piece(part.data, time.monotonic() - started_s)


def place_of(block: DecodeBlock) -> tuple[int, int]:
    """The block's number and that of its first picture, both from the origin on."""
    before, origin = (max(0, 4 * block.shape[0] * each - 3) for each in (block.block, block.origin))
    return block.block - block.origin, before - origin


def or_die(work: Callable[[], Reply]) -> Reply:
    """An error that nobody expected ends the process, loudly: its sessions may be damaged."""
    try:
        return work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def has_nvenc() -> bool:
    try:
        SegmentEncoder(NVENC_TRIAL)
    except InvalidConfig:
        return False
    return True


def main(descriptor: int) -> None:
    pipe = Pipe(descriptor)
    command = pipe.commands.get()
    assert isinstance(command, LoadDecoder)
    # Importing torch takes seconds, in which the end of the service has to be noticed.
    gc.disable()  # it finds nothing in what imports make, and takes a tenth of their time
    from services.decoder.pictures import PictureDecoder

    gc.enable()
    try:
        decoder = PictureDecoder(command.card, command.settings)
    except CascadeError as error:
        pipe.send(DecoderUnusable(str(error)))
        return
    worker = DecodingWorker(pipe, decoder)
    num_fitting = decoder.warm_up(command.settings.max_encodings)
    pipe.send(DecoderReady(str(decoder.device), num_fitting, has_nvenc(), decoder.can_encode))
    while True:
        worker.handle(pipe.commands.get())


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except Exception:
        traceback.print_exc()
        os._exit(1)  # now, without waiting for the encoding thread
