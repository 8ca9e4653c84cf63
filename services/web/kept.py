"""What is kept of a session's video at this gateway, for readers that come and go."""

from collections import deque
from dataclasses import dataclass, replace
from hashlib import sha256

from cascade.v1 import session_pb2
from services.common.wakeup import Wakeup

Response = session_pb2.ConnectResponse
MAX_IN_PARTS = 6
"""The newest segments, whose parts are still to be had: players that ask for parts are at the live edge."""


@dataclass(frozen=True)
class Init:
    """An MP4 initialisation segment."""

    name: str
    """The same at every gateway, and different for different content."""
    data: bytes


@dataclass(frozen=True)
class KeptPart:
    """Some pictures of a segment."""

    sequence: int
    """Of its segment."""
    epoch: int
    """In which it was made: one that is made anew has another, and other bytes."""
    index: int
    """From 0, which can be played without what is before it."""
    duration_s: float
    init: Init
    data: bytes


@dataclass(frozen=True)
class Kept:
    """One segment."""

    sequence: int
    """From 1."""
    start_s: float
    """On the session's clock."""
    duration_s: float
    num_frames: int
    full_s: float
    """How long a whole block lasts: block 0 is shorter."""
    init: Init
    """What it is played with."""
    data: bytes
    parts: tuple[KeptPart, ...] = ()
    """As it came; none: it came whole."""


class KeptVideo:
    """The newest segments, without a gap between them. Fed with the events of one or more streams."""

    def __init__(self, max_segments: int, max_bytes: int) -> None:
        self.segments: deque[Kept] = deque()
        self.parts: list[KeptPart] = []
        """Of the segment that comes next, as far as it has come."""
        self.num_cuts = 0
        """Changes of the initialisation segment before the oldest segment here."""
        self.started_ms: int | None = None
        """When the session's first segment was made, in ms since 1970."""
        self.is_over = False
        self.error: Exception | None = None
        """Why no more comes."""
        self.wakeup = Wakeup()
        """Fired with every change."""
        self._max_segments, self._max_bytes = max_segments, max_bytes
        self._num_bytes = 0
        self._init: Init | None = None
        self._due: int | None = None
        self._is_ending = False

    @property
    def last_sequence(self) -> int:
        """The newest, 0 if there is none."""
        return self.segments[-1].sequence if self.segments else 0

    @property
    def is_complete(self) -> bool:
        """Whether all is here that was kept when the stream was attached: it ends, or has caught up."""
        is_caught_up = self._due is not None and self.segments and self.last_sequence >= self._due
        return bool(self.is_over or self.error or (is_caught_up and not self._is_ending))

    def take(self, event: Response) -> None:
        """An event of the stream; those that carry no video are ignored."""
        match event.WhichOneof("message"):
            case "attached":
                self._take_attached(event.attached.session)
            case "media_init":
                data = event.media_init.data
                self._init = Init(f"init-{sha256(data).hexdigest()[:12]}.mp4", data)
            case "part":
                self._take_part(event.part)
            case "segment":
                self._take_segment(event.segment)
            case "ended":
                self.is_over = True
        self.wakeup.fire()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.wakeup.fire()

    def find(self, sequence: int) -> Kept | None:
        """None: it is not here any more, or not yet."""
        at = sequence - self.segments[0].sequence if self.segments else -1
        return self.segments[at] if 0 <= at < len(self.segments) else None

    def find_part(self, sequence: int, epoch: int, index: int) -> KeptPart | None:
        """None: it is not here any more, or not yet."""
        kept = self.find(sequence)
        parts = kept.parts if kept else self.parts
        place = (sequence, epoch, index)
        return next((part for part in parts if (part.sequence, part.epoch, part.index) == place), None)

    def has(self, sequence: int, index: int | None = None) -> bool:
        """Whether this part is here, or the whole of its segment; None: the whole."""
        is_here = index is not None and self.parts and self.parts[0].sequence == sequence
        return sequence <= self.last_sequence or bool(is_here and self.parts[-1].index >= (index or 0))

    def find_init(self, name: str) -> Init | None:
        """None: no segment here needs it."""
        return next((kept.init for kept in self.segments if kept.init.name == name), None)

    def _take_attached(self, session: session_pb2.Session) -> None:
        self._is_ending = session.state == session_pb2.SESSION_STATE_ENDED
        if self._due is None:
            self._due = session.last_sequence
        if session.HasField("start_time"):
            self.started_ms = session.start_time.ToMilliseconds()

    def _take_part(self, part: Response.Part) -> None:
        assert self._init, "media_init comes before the first part"
        if self.segments and part.sequence != self.last_sequence + 1:
            return
        if part.index == 0:
            self.parts = []
        duration_s = part.media.duration.ToNanoseconds() / 1e9
        place = part.sequence, part.epoch, part.index
        self.parts.append(KeptPart(*place, duration_s, self._init, part.media.data))

    def _take_segment(self, segment: Response.Segment) -> None:
        assert self._init, "media_init comes before the first segment"
        if segment.sequence <= self.last_sequence:
            return  # sent again after a loss
        if self.segments and segment.sequence != self.last_sequence + 1:
            while self.segments:
                self._forget_oldest()
        if segment.sequence == 1 and self.started_ms is None:
            self.started_ms = segment.create_time.ToMilliseconds()
        media, parts = segment.media, tuple(self.parts) if segment.num_parts else ()
        data = b"".join(part.data for part in parts) or media.data
        self.parts = []
        frame_s = media.duration.ToNanoseconds() / 1e9 / media.num_frames
        num_missing = 0 if media.block else 3
        self.segments.append(
            Kept(
                segment.sequence,
                start_s=media.presentation_time.ToNanoseconds() / 1e9,
                duration_s=frame_s * media.num_frames,
                num_frames=media.num_frames,
                full_s=frame_s * (media.num_frames + num_missing),
                init=self._init,
                data=data,
                parts=parts,
            )
        )
        self._num_bytes += len(data)
        while len(self.segments) > 1 and self._is_full:
            self._forget_oldest()
        if len(self.segments) > MAX_IN_PARTS:
            whole = self.segments[-1 - MAX_IN_PARTS]
            self.segments[-1 - MAX_IN_PARTS] = replace(whole, parts=())

    @property
    def _is_full(self) -> bool:
        return len(self.segments) > self._max_segments or self._num_bytes > self._max_bytes

    def _forget_oldest(self) -> None:
        oldest = self.segments.popleft()
        self._num_bytes -= len(oldest.data)
        following = self.segments[0].init if self.segments else self._init
        self.num_cuts += following != oldest.init
