"""One table: what a client sees of each error, as gRPC status with google.rpc details.

Every status carries ErrorInfo (its reason a member of `ErrorReason`, named after the error's class) and
RequestInfo; BadRequest names the fields, RetryInfo says when to try again, QuotaFailure whose limit it was.
What is not in the table becomes INTERNAL without its message. All of it stays under the 8 KiB that HTTP/2
peers take as metadata (`packing.py`).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from cascade_core import errors as core
from services.common import errors
from services.common.packing import MAX_METADATA_BYTES, cut, pack, pass_on
from services.common.remote import RemoteError
from services.common.validation import InvalidField

INTERNAL = "INTERNAL"
StatusCode = grpc.StatusCode


@dataclass(frozen=True)
class Row:
    """How one class of errors looks on the wire."""

    code: grpc.StatusCode
    retry_after_s: float | None = None
    """RetryInfo, unless the error has a `retry_after_s` of its own; None: waiting alone does not help."""
    reason: str = ""
    """Of ErrorReason; empty: the class's name in capitals."""


TABLE: dict[type[BaseException], Row] = {
    core.UserError: Row(StatusCode.INVALID_ARGUMENT, reason="INVALID_REQUEST"),
    core.InvalidRequest: Row(StatusCode.INVALID_ARGUMENT),
    core.InvalidPrompt: Row(StatusCode.INVALID_ARGUMENT),
    core.UnusableFile: Row(StatusCode.INVALID_ARGUMENT),
    core.UnknownModel: Row(StatusCode.NOT_FOUND),
    core.OutOfCapacity: Row(StatusCode.RESOURCE_EXHAUSTED, retry_after_s=1.0),
    core.SessionClosed: Row(StatusCode.FAILED_PRECONDITION),
    core.SessionLost: Row(StatusCode.UNAVAILABLE, retry_after_s=0.0),
    InvalidField: Row(StatusCode.INVALID_ARGUMENT),
    errors.Malformed: Row(StatusCode.INVALID_ARGUMENT),
    errors.UnsupportedMedia: Row(StatusCode.INVALID_ARGUMENT),
    errors.InvalidPageToken: Row(StatusCode.INVALID_ARGUMENT),
    errors.ProtocolViolation: Row(StatusCode.FAILED_PRECONDITION),
    errors.FirstMessageLate: Row(StatusCode.DEADLINE_EXCEEDED, retry_after_s=0.0),
    errors.RequestIdReused: Row(StatusCode.ALREADY_EXISTS),
    errors.SessionExists: Row(StatusCode.ALREADY_EXISTS),
    errors.SessionNotFound: Row(StatusCode.NOT_FOUND),
    errors.BlockNotAhead: Row(StatusCode.FAILED_PRECONDITION),
    errors.SequenceAhead: Row(StatusCode.OUT_OF_RANGE),
    errors.NotController: Row(StatusCode.PERMISSION_DENIED),
    errors.ControllerReplaced: Row(StatusCode.ABORTED),
    errors.PermissionDenied: Row(StatusCode.PERMISSION_DENIED),
    errors.Unauthenticated: Row(StatusCode.UNAUTHENTICATED),
    errors.ExpiredCredential: Row(StatusCode.UNAUTHENTICATED),
    errors.QuotaExceeded: Row(StatusCode.RESOURCE_EXHAUSTED),
    errors.QueueFull: Row(StatusCode.RESOURCE_EXHAUSTED, retry_after_s=5.0),
    errors.RateLimited: Row(StatusCode.RESOURCE_EXHAUSTED, retry_after_s=1.0),
    errors.TooManySwitches: Row(StatusCode.RESOURCE_EXHAUSTED, retry_after_s=1.0),
    errors.NotReady: Row(StatusCode.UNAVAILABLE, retry_after_s=1.0),
    errors.Draining: Row(StatusCode.UNAVAILABLE, retry_after_s=0.0),
    errors.JournalUnavailable: Row(StatusCode.UNAVAILABLE, retry_after_s=1.0),
    errors.Fenced: Row(StatusCode.ABORTED),
    errors.Overloaded: Row(StatusCode.RESOURCE_EXHAUSTED, retry_after_s=1.0),
    errors.DeadlineExceeded: Row(StatusCode.DEADLINE_EXCEEDED, retry_after_s=0.0),
}
OPERATORS = (core.InvalidConfig, core.WeightsError)
"""Not the caller's to mend, and not the caller's to read."""
INVALID = Row(StatusCode.INVALID_ARGUMENT, reason="INVALID_FIELD")
LOST_PEER = Row(StatusCode.UNAVAILABLE, retry_after_s=1.0, reason="NOT_READY")


def find_row(error: BaseException) -> Row | None:
    """The row of the error's nearest class; None: INTERNAL, not an error that a client is told about."""
    if isinstance(error, OPERATORS):
        return None
    if isinstance(error, RemoteError):
        return remote_row(error)
    for kind in type(error).__mro__:
        if kind in TABLE:
            row = TABLE[kind]
            return replace(row, reason=row.reason or capitals(kind.__name__))
    return INVALID if violations_of(error) else None


def remote_row(error: RemoteError) -> Row | None:
    """As the peer said; a peer that is gone is not our caller's affair, but it may come back."""
    if error.reason:
        return Row(error.code, error.retry_after_s, error.reason)
    return LOST_PEER if error.is_lost else None


def cause_of(error: BaseException) -> BaseException:
    """The error inside a TaskGroup's group: one that the table knows before any other."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [cause_of(inner) for inner in error.exceptions]
    return next((cause for cause in causes if find_row(cause)), causes[0])


def violations_of(error: BaseException) -> Sequence[tuple[str, str]]:
    """(field, what is wrong) of a message that failed validation."""
    return getattr(error, "violations", ())


def describe(error: BaseException, request_id: str) -> Status:
    """The google.rpc.Status of an error."""
    error = cause_of(error)
    row = find_row(error)
    if isinstance(error, RemoteError):
        if error.reason:
            return pass_on(error.status, error.code, request_id)
        error = errors.NotReady("a server behind this one cannot be reached")
    parts: list[Message] = [details.RequestInfo(request_id=request_id)]
    if row is None:
        return pack(StatusCode.INTERNAL, "internal error", details.ErrorInfo(reason=INTERNAL), parts)
    retry_after_s = getattr(error, "retry_after_s", row.retry_after_s)
    if retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(math.ceil(retry_after_s * 1000))
        parts.append(details.RetryInfo(retry_delay=delay))
    if isinstance(error, errors.QuotaExceeded):
        violation = details.QuotaFailure.Violation(subject=cut(error.subject), description=cut(str(error)))
        parts.append(details.QuotaFailure(violations=[violation]))
    parts += [
        details.BadRequest(field_violations=[{"field": cut(name), "description": cut(text)}])
        for name, text in violations_of(error)
    ]
    return pack(row.code, str(error), info_of(error, row.reason), parts)


def info_of(error: BaseException, reason: str) -> details.ErrorInfo:
    """The reason, and the error's `metadata`."""
    metadata: Mapping[str, str] = getattr(error, "metadata", {})
    return details.ErrorInfo(
        reason=reason, metadata={key: cut(value, MAX_METADATA_BYTES) for key, value in metadata.items()}
    )


def reason_of(error: BaseException) -> str:
    """The ErrorReason of an error, without its prefix: `OutOfCapacity` -> `OUT_OF_CAPACITY`."""
    row = find_row(error)
    return row.reason if row else INTERNAL


def capitals(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()
