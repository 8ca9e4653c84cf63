"""Errors that another service answered with, as its caller sees them."""

from collections.abc import Mapping

import grpc
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from services.common.errors import ServiceError

DOMAIN = "cascade"
TRAILER = "grpc-status-details-bin"
StatusCode = grpc.StatusCode
CODES = {code.value[0]: code for code in StatusCode if code is not StatusCode.OK}
LOST = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.UNKNOWN,
        StatusCode.INTERNAL,
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
    }
)


class RemoteError(ServiceError):
    """A peer refused, or is gone. Our own caller is told what the peer said."""

    def __init__(self, status: Status) -> None:
        self.status = status
        """As it came, details included."""
        self.code = CODES.get(status.code, StatusCode.UNKNOWN)
        info, retry = details.ErrorInfo(), details.RetryInfo()
        for part in status.details:
            unpack(part, info)
            unpack(part, retry)
        is_ours = info.domain == DOMAIN
        self.reason: str = info.reason if is_ours else ""
        """Of ErrorReason, without its prefix; empty: none, the answer came from a library or a proxy."""
        self.metadata: Mapping[str, str] = dict(info.metadata) if is_ours else {}
        """Of ErrorInfo."""
        self.retry_after_s = retry_delay_s(retry)
        """What RetryInfo says; None: nothing."""
        self.retryable = self.retry_after_s is not None
        super().__init__(f"{self.reason or self.code.name}: {status.message}")

    @property
    def is_lost(self) -> bool:
        """The peer or the connection is gone: nobody there gave a reason."""
        return self.code in LOST and not self.reason

    @classmethod
    def from_status(cls, status: Status) -> "RemoteError":
        """From a Status that came in a message of a stream."""
        return cls(status)


def remote_error(error: grpc.aio.AioRpcError) -> RemoteError:
    """What the peer said, from the trailers of the failed call."""
    code, message = error.code().value[0], error.details() or ""
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes):
            status = parse(value)
            if status is not None and status.code == code:  # else: not what gRPC itself says of this call
                return RemoteError(status)
    return RemoteError(Status(code=code, message=message))


def parse(content: bytes) -> Status | None:
    """None: these bytes are no Status."""
    try:
        return Status.FromString(content)
    except DecodeError:
        return None


def unpack(part: PackedAny, into: Message) -> None:
    """Fill `into` if the part is of its type; damaged parts tell nothing."""
    try:
        part.Unpack(into)
    except DecodeError:
        into.Clear()


def retry_delay_s(retry: details.RetryInfo) -> float | None:
    if not retry.HasField("retry_delay"):
        return None
    delay = retry.retry_delay
    return max(0.0, float(delay.seconds + delay.nanos / 1e9))
