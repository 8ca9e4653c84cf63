"""What a journal refuses.

    JournalError
    ├── Fenced               another owner, or a later epoch, has the session: stop working on it
    ├── LeaseHeld            the owner is alive; names it and how long its lease still runs
    ├── NoSuchSession        never created, or long expired
    ├── SessionEnded         it has an end reason; nothing more may be written
    ├── OutOfOrder           a block or sequence number that would leave a gap
    ├── RequestConflict      a request id that came before with other content
    ├── InvalidEntry         a value that no journal takes, such as a session id with a brace
    ├── SegmentsGone         asked for segments that are no longer kept; names the oldest
    ├── JournalFull          a bound on bytes or entries is reached; names it
    └── JournalUnavailable   the store does not answer; retry later

`retryable` tells whether the same call can succeed later without being changed.
"""


class JournalError(Exception):
    """Base of every error a journal raises on purpose."""

    retryable = False


class Fenced(JournalError):
    """A stale owner: somebody else claimed the session since."""


class LeaseHeld(JournalError):
    """Another owner holds the session."""

    retryable = True

    def __init__(self, session: str, owner: str, left_s: float) -> None:
        super().__init__(f"session {session}: held by {owner} for another {left_s:.1f} s")
        self.owner = owner
        self.left_s = left_s


class NoSuchSession(JournalError, LookupError):
    """The journal knows no session of this name."""


class SessionEnded(JournalError):
    """The session has ended for the reason given."""


class OutOfOrder(JournalError, ValueError):
    """Appending this would leave a gap."""


class RequestConflict(JournalError, ValueError):
    """The request id was used for something else."""


class InvalidEntry(JournalError, ValueError):
    """The value is outside what the journal takes."""


class SegmentsGone(JournalError):
    """The oldest segment that is kept comes after the one asked for."""

    def __init__(self, session: str, oldest: int) -> None:
        super().__init__(f"session {session}: the oldest segment kept is {oldest}")
        self.oldest = oldest


class JournalFull(JournalError):
    """A configured bound is reached."""


class JournalUnavailable(JournalError):
    """The store did not answer in time, or refused."""

    retryable = True
