"""A decoder's worker that computes nothing: its segments say of which latents they are made.

The decoder runs this in place of `services.decoder.worker`; see `launch.py`.
"""

import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.chaos.content import NOTHING, block_of
from cascade_core.ranks.pipe import ChildEnd
from services.decoder.messages import (
    BlockEncoded,
    BlockWarmed,
    Command,
    DecodeBlock,
    DecoderReady,
    DropSession,
    LoadDecoder,
    OpenSession,
    Piece,
    Ping,
    Pong,
    Reply,
    SessionFailed,
    SessionOpened,
)

NUM_FITTING = 64
INIT = ('video/mp4; codecs="avc1.640028"', b"init of the fake engine")


@dataclass
class Session:
    """What the worker remembers of it."""

    num_profiles: int
    before: bytes = NOTHING
    """The digest of the newest block."""


class FakeWorker:
    """All sessions of one decoder."""

    def __init__(self, pipe: "ChildEnd[Command, Reply]") -> None:
        self._pipe = pipe
        self._sessions: dict[int, Session] = {}

    def handle(self, command: Command) -> None:
        match command:
            case DecodeBlock():
                self._pipe.send(self._decode(command))
            case OpenSession():
                self._sessions[command.session] = Session(len(command.profiles))
                self._pipe.send(SessionOpened(command.session, (INIT,) * len(command.profiles)))
            case DropSession():
                self._sessions.pop(command.session, None)
            case Ping():
                self._pipe.send(Pong())

    def _decode(self, command: DecodeBlock) -> Reply:
        session = self._sessions.get(command.session)
        if session is None:
            return SessionFailed(command.session, "the session is not open")
        block, before = block_of(floats(command)), session.before
        session.before = block.digest
        if command.is_warmup:
            return BlockWarmed(command.session, command.block)
        num_frames = 4 * command.shape[0] - (0 if command.block else 3)
        first_frame = max(0, 4 * command.shape[0] * command.block - 3)
        pieces = (Piece(block.segment(before), 0.0),) * session.num_profiles
        queue_s = time.monotonic() - command.arrived_s
        return BlockEncoded(command.session, command.block, first_frame, num_frames, pieces, queue_s, 0.0)


def floats(block: DecodeBlock) -> NDArray[np.float32]:
    """The latents of a message."""
    if block.dtype == "float32":
        return np.frombuffer(block.data, np.float32)
    halves = np.frombuffer(block.data, np.uint16).astype(np.uint32)
    return (halves << 16).view(np.float32)


def main(descriptor: int) -> None:
    pipe: ChildEnd[Command, Reply] = ChildEnd(descriptor)
    assert isinstance(pipe.commands.get(), LoadDecoder)
    worker = FakeWorker(pipe)
    pipe.send(DecoderReady("cpu", NUM_FITTING, False, False))
    while True:
        worker.handle(pipe.commands.get())


if __name__ == "__main__":
    main(int(sys.argv[1]))
