"""Everything this package raises, but for misuse in the code that calls it (ValueError, TypeError).

CascadeClientError
├── InvalidRequest       a field, prompt or model does not fit; `violations` names the fields
├── NotFound             no such session, or another tenant's
├── AlreadyExists        session_id taken, or a request_id used with other content
├── NotAllowed           no credential, an expired one, or one that may not do this
├── WrongState           the session has ended, or the block has started already
├── Exhausted            a quota, a rate or a queue is full; `retry_after_s` says when to try again
├── Unavailable          nobody answers, or not now
├── Replaced             another controller has attached
├── ServerFault          a defect of the server: report `request_id`
├── SequenceGap          segments are missing for good
├── EndedEarly           the session failed or was evicted, or ended before its first segment
├── CannotSave           the file could not be written
├── CannotPush           a receiver cannot be reached, refuses the video, or is gone for too long
└── MissingExtra         an optional part of this package is not installed; the message names it
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "cascade"
DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Violation:
    """One field that the server refused."""

    field: str
    """Its path, such as `spec.width`."""
    description: str
    """What it must be."""


@dataclass(frozen=True)
class Details:
    """What a google.rpc.Status says beside code and message."""

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    retry_after_s: float | None = None
    violations: Sequence[Violation] = ()


class CascadeClientError(Exception):
    """Base of all. Branch on the class, or on `code` and `reason`; the message is for people.

    try:
        session = await client.create("a red circle")
    except Exhausted as error:
        await asyncio.sleep(error.retry_after_s or 5)
    """

    def __init__(
        self, message: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN, details: Details | None = None
    ) -> None:
        super().__init__(message)
        details = details or Details()
        self.code = code
        self.reason = details.reason
        """One of ErrorReason without its prefix, such as `QUEUE_FULL`; empty where no gateway answered."""
        self.metadata = dict(details.metadata)
        """Facts of the reason, such as `next_block`."""
        self.request_id = details.request_id
        """Finds the call in the servers' logs."""
        self.retry_after_s = details.retry_after_s
        """Seconds to wait before the same request may succeed; None: the server does not say."""
        self.violations = tuple(details.violations)

    @property
    def details(self) -> Details:
        """All of them together."""
        return Details(self.reason, self.metadata, self.request_id, self.retry_after_s, self.violations)


class InvalidRequest(CascadeClientError):
    """The request cannot be served as it is."""


class NotFound(CascadeClientError):
    """No such session or model."""


class AlreadyExists(CascadeClientError):
    """The name or request_id is taken."""


class NotAllowed(CascadeClientError):
    """The credential is missing, unknown, expired, or good for something else."""


class WrongState(CascadeClientError):
    """The session is not in a state for this."""


class Exhausted(CascadeClientError):
    """A limit is reached."""


class Unavailable(CascadeClientError):
    """No gateway answers, or it cannot answer now."""


class Replaced(CascadeClientError):
    """Another controller attached; this one must not come back."""


class ServerFault(CascadeClientError):
    """The server failed in a way it should not."""


class SequenceGap(CascadeClientError):
    """Segments that this client has to have were not sent and will not be."""

    def __init__(self, expected: int, received: int) -> None:
        super().__init__(
            f"segments {expected} to {received - 1} are missing: {received} came after {expected - 1}",
            grpc.StatusCode.DATA_LOSS,
        )
        self.expected, self.received = expected, received


class CannotSave(CascadeClientError):
    """The file could not be written."""

    def __init__(self, message: str) -> None:
        super().__init__(message, grpc.StatusCode.ABORTED)


class CannotPush(CascadeClientError):
    """The receiver cannot be reached, refuses the video, or is gone for too long."""

    def __init__(self, message: str) -> None:
        super().__init__(message, grpc.StatusCode.ABORTED)


class EndedEarly(CascadeClientError):
    """There is less video than there should be; code, reason and violations are the session's."""

    def __init__(self, end_reason: str, cause: CascadeClientError | None, kept: str) -> None:
        why = f"{end_reason.lower()}: {cause}" if cause else end_reason.lower()
        super().__init__(
            f"the session ended early ({why}); {kept}",
            cause.code if cause else grpc.StatusCode.FAILED_PRECONDITION,
            cause.details if cause else None,
        )
        self.end_reason = end_reason
        """As Ended.reason: FAILED, EVICTED, DELETED, ..."""


class MissingExtra(CascadeClientError):
    """What was called needs packages that `pip install cascade-client` alone does not bring."""

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(
            f"{what}; install them with: pip install 'cascade-client[{extra}]'",
            grpc.StatusCode.UNIMPLEMENTED,
        )


KINDS: dict[grpc.StatusCode, type[CascadeClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.FAILED_PRECONDITION: WrongState,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.ABORTED: Replaced,
}
CODES = {code.value[0]: code for code in grpc.StatusCode}


def from_status(status: status_pb2.Status) -> CascadeClientError:
    """The error that a google.rpc.Status stands for."""
    return build(CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, parse(status))


def from_rpc(error: grpc.aio.AioRpcError) -> CascadeClientError:
    """The error that a failed call stands for."""
    details = Details()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                details = parse(status_pb2.Status.FromString(value))
            except DecodeError:
                continue  # not ours: a proxy's
    return build(error.code(), error.details() or "", details)


def build(code: grpc.StatusCode, message: str, details: Details) -> CascadeClientError:
    kind = KINDS.get(code, ServerFault)
    untold = [each for each in details.violations if each.description not in message]
    fields = "; ".join(f"{each.field}: {each.description}" for each in untold)
    if fields:
        message = f"{message}: {fields}" if message else fields
    return kind(message or code.name.lower().replace("_", " "), code, details)


def parse(status: status_pb2.Status) -> Details:
    """The details of Cascade's errors; those of others are left out."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.RequestInfo()
    retry = error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    found = {part.DESCRIPTOR.full_name: part for part in (info, request, retry, bad)}
    for packed in status.details:
        part = found.get(packed.TypeName())
        if part is not None:
            packed.Unpack(part)
    is_ours = info.domain == DOMAIN
    return Details(
        reason=info.reason if is_ours else "",
        metadata=dict(info.metadata) if is_ours else {},
        request_id=request.request_id,
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds()
        if retry.HasField("retry_delay")
        else None,
        violations=[Violation(each.field, each.description) for each in bad.field_violations],
    )
