"""What a client received of a session, and what is wrong with it."""

import hashlib
import time
from dataclasses import dataclass, field

from benchmarks.chaos.checks import Check
from cascade_client import Segment


@dataclass(frozen=True)
class Wait:
    """For one segment; seconds on this process's clock."""

    start_s: float
    """When the one before came; of the first: when the session was asked for."""
    end_s: float
    owed_s: float
    """How long the one before lasts: so long nobody misses anything. 0 for the first."""
    after: int
    """The sequence of the one before."""

    @property
    def seconds(self) -> float:
        """Beyond what nobody misses."""
        return max(0.0, self.end_s - self.start_s - self.owed_s)


@dataclass
class Complaint:
    """A segment that is not what it should be."""

    sequence: int
    epoch: int
    text: str
    at_s: float
    excuse: str = ""
    """Why it counts as allowed."""


@dataclass
class Ledger:
    """Of one client of one session, over all its streams."""

    name: str
    check: Check
    digests: dict[int, bytes]
    """Of each segment, by sequence: all clients of the session share them, and must have got the same."""
    is_viewer: bool = False
    last: int = 0
    epoch: int = 0
    num_segments: int = 0
    num_repeated: int = 0
    num_lost: int = 0
    complaints: list[Complaint] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    waiting_since_s: float | None = None
    """None: it waits for nothing; its controller has paused it, or it is over."""
    init: bytes = b""
    _owed_s: float = 0.0
    _next_frame: int | None = None

    def expect(self) -> None:
        """From now on a segment is due."""
        self.waiting_since_s, self._owed_s = time.monotonic(), 0.0

    def expect_nothing(self) -> None:
        """A wait that is under way ends unfulfilled."""
        self._note_wait(time.monotonic())
        self.waiting_since_s = None

    def take(self, segment: Segment) -> None:
        """The next segment that the application gets."""
        now = time.monotonic()
        self._note_wait(now)
        if self.waiting_since_s is not None:
            self.waiting_since_s, self._owed_s = now, segment.duration_s
        if not self.is_viewer:
            self.num_lost += max(0, segment.sequence - self.last - 1)
        if complaint := self._complaint(segment):
            self.complaints.append(Complaint(segment.sequence, segment.epoch, complaint, now))
        self.last, self.epoch = segment.sequence, segment.epoch
        self.num_segments += 1

    def skip(self) -> None:
        """A viewer was told that it missed some."""
        self._next_frame = None

    def _note_wait(self, now_s: float) -> None:
        if self.waiting_since_s is not None:
            self.waits.append(Wait(self.waiting_since_s, now_s, self._owed_s, self.last))

    def _complaint(self, segment: Segment) -> str:
        digest = hashlib.sha256(segment.data).digest()
        if self.digests.setdefault(segment.sequence, digest) != digest:
            return "another client, or this one before, got something else under this number"
        follows = self._next_frame in (None, segment.first_frame)
        self._next_frame = segment.first_frame + segment.num_frames
        if segment.block != segment.sequence - 1 or not follows:
            return f"block {segment.block}, picture {segment.first_frame} on, does not follow"
        return self.check.complaint(self.init, segment)
