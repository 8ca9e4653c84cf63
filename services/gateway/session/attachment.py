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
    first_sequence: int = 1
    """The client has the segments before it: those are made again after the loss of a gateway."""
    error: BaseException | None = None
    """What the stream ends with; None: OK."""
    _queue: "deque[Response | int]" = field(default_factory=deque)
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
        unread = [item for item in self._queue if not isinstance(item, int) and item.HasField("block_made")]
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

    def close(self, error: BaseException | None = None, *, at_once: bool = True) -> None:
        """The stream ends with this error, at once or after what is queued; with none always after it."""
        if self._is_closed:
            return
        self._is_closed, self.error = True, error
        if error and at_once:
            self._queue.clear()
        self._filled.set()

    async def take(self) -> Response | int | None:
        """The next event, or the number of the next segment; None at the end. Raises the error of `close`."""
        while not self._queue:
            if self.error:
                raise self.error
            if self._is_closed:
                return None
            self._filled.clear()
            await self._filled.wait()
        return self._queue.popleft()

    def _make_room(self) -> None:
        """Drop the oldest event that the picture does not need; if all are needed, the oldest of them.
        Segments stay: nobody would be told of their loss."""
        events = [item for item in self._queue if not isinstance(item, int)]
        useless = (event for event in events if event.WhichOneof("message") not in NEEDED)
        self._queue.remove(next(useless, events[0]))

    def _skip_to_edge(self) -> None:
        """Leave out all segments but the newest where there are too many, and tell which."""
        segments = [item for item in self._queue if isinstance(item, int)]
        if len(segments) <= self.max_behind:
            return
        events = [item for item in self._queue if not isinstance(item, int)]
        skips = [event.skipped.first_sequence for event in events if event.HasField("skipped")]
        skipped = Response.Skipped(first_sequence=min([*skips, segments[0]]), next_sequence=segments[-1])
        kept = [event for event in events if not event.HasField("skipped")]
        self._queue = deque([*kept, Response(skipped=skipped), segments[-1]])
