"""What one Connect stream is still to be sent: events, and segments by number. Always bounded."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from cascade.v1 import session_pb2
from services.common.errors import Overloaded

Response = session_pb2.ConnectResponse
MAX_EVENTS = 512
"""A controller that leaves this much unread loses its stream, not its session."""
MAX_BEHIND = 16
"""Segments that a viewer may be behind before it jumps to the newest."""
NEEDED = {"media_init", "skipped", "ended"}
"""Without these a viewer shows nothing, or something wrong, from there on."""
MAX_MADE = 4
"""Unread `block_made`: beyond it the oldest are dropped, since nobody needs them any more."""


@dataclass(frozen=True)
class Part:
    """Of the segment that is being made."""

    sequence: int
    epoch: int
    index: int
    num_frames: int
    message: bytes = field(repr=False)
    """A ConnectResponse, serialized."""


@dataclass
class PartsTaken:
    """What a client has had of one segment."""

    sequence: int = 0
    num_parts: int = 0
    num_frames: int = 0


@dataclass(eq=False)
class Attachment:
    """A controller or a viewer of a session. Iterate by `take`."""

    is_controller: bool
    client: str = ""
    """What the client says it is."""
    profile: int = 0
    """Which of the session's profiles it receives."""
    max_behind: int = MAX_BEHIND
    """Of a viewer: segments that it may be behind before it jumps to the newest."""
    with_ticks: bool = False
    """Whether it wants `block_made`."""
    with_parts: bool = False
    """Whether it wants parts."""
    first_sequence: int = 1
    """The client has the segments before it: those are made again after the loss of a gateway."""
    error: BaseException | None = None
    """What the stream ends with; None: OK."""
    parts: PartsTaken = field(default_factory=PartsTaken)
    """Of the newest segment of which it has taken any."""
    _queue: "deque[Response | int | Part]" = field(default_factory=deque)
    _due_part: tuple[int, int, int] | None = None
    """Sequence, epoch and index of the only one that can follow the last."""
    _filled: asyncio.Event = field(default_factory=asyncio.Event)
    _is_closed: bool = False

    def put(self, event: Response) -> None:
        """An event; a controller that does not read is cut off, a viewer goes without older ones."""
        if self._is_closed:
            return
        if len(self._queue) >= MAX_EVENTS and self.is_controller:
            self.close(Overloaded(f"{MAX_EVENTS} messages are unread; attach again and read faster"))
        else:
            if len(self._queue) >= MAX_EVENTS:
                self._make_room()
            self._queue.append(event)
        self._filled.set()

    def put_made(self, event: Response) -> None:
        """A `block_made`, for a client that wants it; one that does not read goes without."""
        if self._is_closed or not self.with_ticks or len(self._queue) >= MAX_EVENTS:
            return
        unread = [event for event in self._events() if event.HasField("block_made")]
        if len(unread) >= MAX_MADE:
            self._queue = deque(item for item in self._queue if item is not unread[0])
        self._queue.append(event)
        self._filled.set()

    def put_segment(self, sequence: int) -> None:
        """A segment, fetched when its turn comes."""
        if self._is_closed or sequence < self.first_sequence:
            return
        self._queue.append(sequence)
        if not self.is_controller:
            self._skip_to_edge()
        self._filled.set()

    def put_part(self, part: Part) -> None:
        """A part, where it is wanted and all before it of its segment were put; a client that has yet to take
        a segment goes without, so that never more than one segment's wait."""
        if self._is_closed or not self.with_parts or part.sequence < self.first_sequence:
            return
        if part.index == 0 and not any(isinstance(item, int) for item in self._queue):
            self._due_part = part.sequence, part.epoch, 0
        if self._due_part != (part.sequence, part.epoch, part.index):
            return
        self._due_part = part.sequence, part.epoch, part.index + 1
        self._queue.append(part)
        self._filled.set()

    def void_parts(self) -> None:
        """What came of a segment that is not there yet is made anew."""
        self._queue = deque(item for item in self._queue if not isinstance(item, Part))
        self._due_part, self.parts = None, PartsTaken()

    def close(self, error: BaseException | None = None, *, at_once: bool = True) -> None:
        """The stream ends with this error, at once or after what is queued; with none always after it."""
        if self._is_closed:
            return
        self._is_closed, self.error = True, error
        if error and at_once:
            self._queue.clear()
        self._filled.set()

    async def take(self) -> Response | int | Part | None:
        """The next event or part, or the number of the next segment; None at the end. Raises the error of
        `close`."""
        while not self._queue:
            if self.error:
                raise self.error
            if self._is_closed:
                return None
            self._filled.clear()
            await self._filled.wait()
        item = self._queue.popleft()
        if isinstance(item, Part):
            if item.index == 0:
                self.parts = PartsTaken(item.sequence)
            self.parts.num_parts += 1
            self.parts.num_frames += item.num_frames
        return item

    def _events(self) -> list[Response]:
        return [item for item in self._queue if not isinstance(item, int | Part)]

    def _make_room(self) -> None:
        """Drop the oldest event that the picture does not need; if all are needed, the oldest of them.
        Segments stay: nobody would be told of their loss."""
        events = self._events()
        useless = (event for event in events if event.WhichOneof("message") not in NEEDED)
        self._queue.remove(next(useless, events[0]))

    def _skip_to_edge(self) -> None:
        """Leave out all segments but the newest where there are too many, and tell which."""
        segments = [item for item in self._queue if isinstance(item, int)]
        if len(segments) <= self.max_behind:
            return
        events = self._events()
        skips = [event.skipped.first_sequence for event in events if event.HasField("skipped")]
        skipped = Response.Skipped(first_sequence=min([*skips, segments[0]]), next_sequence=segments[-1])
        kept = [event for event in events if not event.HasField("skipped")]
        self._queue = deque([*kept, Response(skipped=skipped), segments[-1]])
