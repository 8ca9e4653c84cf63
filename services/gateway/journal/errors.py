"""What a journal refuses.

    JournalError
    ├── LeaseLost            the lease is over, by a takeover, its release or the session's end: stop at once
    ├── LeaseHeld            the owner is alive; names it and how long its lease still runs
    ├── NoSuchSession        never created, or long expired
    ├── Unreadable           a gateway of a later release wrote it, and must go on with it
    ├── SessionTaken         the session id belongs to another request
    ├── SessionEnded         it has ended and cannot be claimed
    ├── OutOfOrder           a block that would leave a gap or comes twice, or a receipt of an unknown switch
    ├── RequestConflict      a request id that came before with other content
    ├── InvalidEntry         a value that no journal takes, such as a session id with a brace
    ├── SegmentsGone         asked for segments that are no longer kept; names the oldest
    ├── TooManyOpen          the tenant has as many open sessions as it may
    ├── JournalFull          a bound on bytes or entries is reached; names it
    └── StoreUnavailable     the store does not answer; retry later

Most also derive from the class in `services.common.errors` or `cascade_core.errors` that gives their gRPC
status; OutOfOrder and SegmentsGone are the gateway's own affair. `retryable` tells whether the same call can
succeed later without being changed.
"""

from cascade_core.errors import SessionClosed, UserError
from services.common import errors


class JournalError(errors.ServiceError):
    """Base of every error a journal raises on purpose."""


class LeaseLost(JournalError, errors.Fenced):
    """The lease is over; `epoch` is the highest one seen."""


class LeaseHeld(JournalError, errors.NotReady):
    """Another owner holds the session."""

    def __init__(self, session: str, owner: str, left_s: float) -> None:
        super().__init__(f"session {session}: held by {owner} for another {left_s:.1f} s")
        self.owner = owner
        self.left_s = self.retry_after_s = left_s


class NoSuchSession(JournalError, errors.SessionNotFound):
    """The journal knows no session of this name."""


class Unreadable(JournalError, errors.NotReady):
    """The record says what this release does not know."""

    def __init__(self, session: str) -> None:
        super().__init__(f"session {session}: is left to a gateway of the release that wrote its record")


class SessionTaken(JournalError, errors.SessionExists):
    """The session id is taken."""

    def __init__(self, session: str) -> None:
        super().__init__(f"session {session}: is taken")
        self.session = session


class SessionEnded(JournalError, SessionClosed):
    """The session has ended."""


class OutOfOrder(JournalError):
    """The change does not follow what the record holds."""


class RequestConflict(JournalError, errors.RequestIdReused):
    """The request id was used for something else."""


class InvalidEntry(JournalError, UserError):
    """The value is outside what the journal takes."""


class SegmentsGone(JournalError):
    """The oldest segment that is kept comes after the one asked for."""

    def __init__(self, session: str, oldest: int) -> None:
        super().__init__(f"session {session}: the oldest segment kept is of block {oldest}")
        self.oldest = oldest


class JournalFull(JournalError, errors.Overloaded):
    """A configured bound is reached."""

    retryable = False


class TooManyOpen(JournalError, errors.QuotaExceeded):
    """One more session of the tenant would pass its quota."""

    def __init__(self, tenant: str, num_open: int, limit: int) -> None:
        super().__init__(f"{num_open} of {limit} sessions are open", subject=f"tenant:{tenant}")


class StoreUnavailable(JournalError, errors.JournalUnavailable):
    """The store did not answer in time, or refused."""
