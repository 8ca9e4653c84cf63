"""Errors of the services, beside the engine's in `cascade_core/errors.py`.

Each is the `ErrorReason` of `cascade/v1/common.proto` of the same name (`BlockNotAhead`: BLOCK_NOT_AHEAD),
which says what it means to a caller; what a client sees of it is in `status.TABLE`. `retryable`: the same
request can succeed later without being changed. An error may carry `metadata` (for ErrorInfo) and
`violations` (field and what is wrong with it, for BadRequest); `with_details` adds them to the engine's.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from cascade_core.errors import CascadeError

E = TypeVar("E", bound=CascadeError)


class ServiceError(CascadeError):
    """Base of the errors that only a server can raise."""


class Malformed(ServiceError):
    """The bytes are no message of this method."""


class UnsupportedMedia(ServiceError):
    """A frame size, codec, encoder or fps that no server here offers."""

    def __init__(self, message: str, *, field: str) -> None:
        """`field`: path of the field in the request, such as `spec.media.profiles[0].encoder`."""
        super().__init__(message)
        self.violations = ((field, message),)


class InvalidPageToken(ServiceError):
    """Not from a call with the same filter, or expired."""


class ProtocolViolation(ServiceError):
    """A message that the order of the stream does not allow here."""


class FirstMessageLate(ServiceError):
    """The first message of a stream did not come in time."""

    retryable = True


class RequestIdReused(ServiceError):
    """A request_id was used before with other content."""


class SessionExists(ServiceError):
    """The session_id is taken."""


class SessionNotFound(ServiceError):
    """There is none of that name, or it belongs to another tenant."""


class BlockNotAhead(ServiceError):
    """The block that a switch should wait for has started, or lies at or beyond the end."""

    def __init__(self, message: str, *, next_block: int) -> None:
        """`next_block`: the first that can still be named."""
        super().__init__(message)
        self.next_block = next_block
        self.metadata = {"next_block": str(next_block)}


class SequenceAhead(ServiceError):
    """Resuming after a segment that was never sent."""


class NotController(ServiceError):
    """A viewer sent what only the controller may."""


class ControllerReplaced(ServiceError):
    """Another stream attached as controller."""


class PermissionDenied(ServiceError):
    """The caller is known and may not do this."""


class Unauthenticated(ServiceError):
    """No credential, or one that nobody here issued."""


class ExpiredCredential(ServiceError):
    """The credential or resume token was good, and has expired."""


class QuotaExceeded(ServiceError):
    """A limit of the tenant's own is reached: it has to end a session, or to ask for a higher one."""

    retryable = True

    def __init__(self, message: str, *, subject: str) -> None:
        """`subject`: whose limit, such as `tenant:acme`."""
        super().__init__(message)
        self.subject = subject


class QueueFull(ServiceError):
    """The admission queue takes no more."""

    retryable = True


class RateLimited(ServiceError):
    """Too many calls per second of this tenant."""

    retryable = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        """`retry_after_s`: when the next call will be taken."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManySwitches(ServiceError):
    """Too many prompt switches wait to take effect."""

    retryable = True


class NotReady(ServiceError):
    """This server starts, or starts its processes again, or the session is changing hands."""

    retryable = True


class Draining(ServiceError):
    """This server is leaving and takes nothing new."""

    retryable = True


class JournalUnavailable(ServiceError):
    """The journal cannot be reached, and this gateway does not hold the session."""

    retryable = True


class Fenced(ServiceError):
    """A stream with the same or a higher epoch was seen: another owner took over."""

    def __init__(self, message: str, *, epoch: int) -> None:
        """`epoch`: the highest one seen."""
        super().__init__(message)
        self.epoch = epoch
        self.metadata = {"epoch": str(epoch)}


class Overloaded(ServiceError):
    """This server answers as many calls as it may."""

    retryable = True


class DeadlineExceeded(ServiceError):
    """The call took longer than it may."""

    retryable = True


def with_details(
    error: E,
    *,
    metadata: Mapping[str, str] | None = None,
    violations: Sequence[tuple[str, str]] | None = None,
) -> E:
    """The same error with more to tell, such as the `end_reason` of SessionClosed and the `known` of
    UnknownModel (metadata), or the field of InvalidPrompt (violations). None: as it was."""
    details = {"metadata": metadata, "violations": violations}
    vars(error).update({name: value for name, value in details.items() if value is not None})
    return error
