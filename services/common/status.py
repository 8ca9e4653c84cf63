"""One table: what a client sees of each error, as gRPC status with google.rpc details.

Every status carries ErrorInfo (reason: the error's name in capitals) and RequestInfo; BadRequest names the
fields, RetryInfo says when to try again, QuotaFailure whose limit it was. What is not in the error trees
becomes INTERNAL without its message. All of it stays under the 8 KiB that HTTP/2 peers take as metadata.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from cascade_core import errors as core
from services.common import errors

DOMAIN = "cascade"
MAX_MESSAGE_BYTES = 512
MAX_FIELD_BYTES = 256
MAX_STATUS_BYTES = 4096
"""Travels in base64 (4/3), beside the message in percent-encoding (at most 3x)."""
StatusCode = grpc.StatusCode


@dataclass(frozen=True)
class Row:
    """How one class of errors looks on the wire."""

    code: grpc.StatusCode
    retry_after_s: float | None = None
    """RetryInfo; None: the same call would fail again."""


TABLE: dict[type[BaseException], Row] = {
    core.UserError: Row(StatusCode.INVALID_ARGUMENT),
    core.InvalidConfig: Row(StatusCode.FAILED_PRECONDITION),  # the operator's to mend
    core.WeightsError: Row(StatusCode.FAILED_PRECONDITION),
    core.UnknownModel: Row(StatusCode.NOT_FOUND),
    core.OutOfCapacity: Row(StatusCode.RESOURCE_EXHAUSTED, retry_after_s=1.0),
    core.SessionClosed: Row(StatusCode.FAILED_PRECONDITION),
    core.SessionLost: Row(StatusCode.UNAVAILABLE, retry_after_s=0.0),
    errors.Malformed: Row(StatusCode.INVALID_ARGUMENT),
    errors.Unauthenticated: Row(StatusCode.UNAUTHENTICATED),
    errors.PermissionDenied: Row(StatusCode.PERMISSION_DENIED),
    errors.NotFound: Row(StatusCode.NOT_FOUND),
    errors.AlreadyExists: Row(StatusCode.ALREADY_EXISTS),
    errors.Fenced: Row(StatusCode.ABORTED),
    errors.QuotaExceeded: Row(StatusCode.RESOURCE_EXHAUSTED, retry_after_s=5.0),
    errors.Overloaded: Row(StatusCode.RESOURCE_EXHAUSTED, retry_after_s=1.0),
    errors.Draining: Row(StatusCode.UNAVAILABLE, retry_after_s=0.0),
    errors.DeadlineExceeded: Row(StatusCode.DEADLINE_EXCEEDED, retry_after_s=0.0),
}
INVALID = Row(StatusCode.INVALID_ARGUMENT)


def find_row(error: BaseException) -> Row | None:
    """The row of the error's nearest class; None: not an error we raise on purpose."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return INVALID if violations_of(error) else None


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
    parts: list[Message] = [details.RequestInfo(request_id=request_id)]
    if row is None:
        return pack(StatusCode.INTERNAL, "internal error", "INTERNAL", parts)
    if row.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(int(row.retry_after_s * 1000))
        parts.append(details.RetryInfo(retry_delay=delay))
    if isinstance(error, errors.QuotaExceeded):
        violation = details.QuotaFailure.Violation(subject=cut(error.subject), description=cut(str(error)))
        parts.append(details.QuotaFailure(violations=[violation]))
    parts += [
        details.BadRequest(field_violations=[{"field": cut(name), "description": cut(text)}])
        for name, text in violations_of(error)
    ]
    return pack(row.code, str(error), reason_of(error), parts)


def reason_of(error: BaseException) -> str:
    """`OutOfCapacity` -> `OUT_OF_CAPACITY`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(error).__name__).upper()


def pack(code: grpc.StatusCode, message: str, reason: str, parts: Sequence[Message]) -> Status:
    """Put the parts into one Status, BadRequests as one, as many as fit."""
    status = Status(code=code.value[0], message=cut(message, MAX_MESSAGE_BYTES))
    bad_request = details.BadRequest()
    room = MAX_STATUS_BYTES - status.ByteSize()
    for part in [details.ErrorInfo(reason=reason, domain=DOMAIN), *parts]:
        if part.ByteSize() + 64 > room:  # 64: the type's address
            break
        room -= part.ByteSize() + 64
        if isinstance(part, details.BadRequest):
            bad_request.MergeFrom(part)
        else:
            status.details.append(packed(part))
    if bad_request.field_violations:
        status.details.append(packed(bad_request))
    return status


def packed(part: Message) -> PackedAny:
    whole = PackedAny()
    whole.Pack(part)
    return whole


def cut(text: str, limit_bytes: int = MAX_FIELD_BYTES) -> str:
    """The text if it fits, else its beginning."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode()
    return encoded[: limit_bytes - 3].decode(errors="ignore") + "…"
