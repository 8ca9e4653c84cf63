"""gRPC status as application/problem+json (RFC 9457), by one table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import grpc
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from starlette.responses import JSONResponse

from services.common.remote import CODES, remote_error, retry_delay_s, unpack
from services.common.status import describe

MEDIA_TYPE = "application/problem+json"
StatusCode = grpc.StatusCode
TABLE: dict[grpc.StatusCode, int] = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409,
    StatusCode.FAILED_PRECONDITION: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
"""Any other is 500. FAILED_PRECONDITION is a conflict with the session's state; 412 is about headers."""


@dataclass(frozen=True)
class Problem:
    """One error as HTTP tells it."""

    status: int
    detail: str
    reason: str = ""
    """Of ErrorReason, without its prefix; empty: HTTP's own status says it all."""
    request_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[tuple[str, str]] = ()
    """(field, what is wrong with it)."""
    retry_after_s: float | None = None
    """None: waiting alone does not help."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """The JSON object."""
        title = self.reason.replace("_", " ").capitalize() or HTTPStatus(self.status).phrase
        content: dict[str, Any] = {
            "type": f"urn:cascade:reason:{self.reason}" if self.reason else "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
        }
        more = {
            "reason": self.reason,
            "requestId": self.request_id,
            "metadata": dict(self.metadata),
            "fieldViolations": [{"field": name, "description": text} for name, text in self.violations],
        }
        content |= {name: value for name, value in more.items() if value}
        if self.retry_after_s is not None:
            content["retryAfterSeconds"] = self.retry_after_s
        return content

    def response(self) -> JSONResponse:
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(self.retry_after_s))
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.content(), self.status, headers, MEDIA_TYPE)


class HttpError(Exception):
    """What can be wrong in HTTP alone: a path, a body too large, a media type."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.problem = Problem(status, detail, headers=headers or {})


def problem_of(error: BaseException, request_id: str) -> Problem:
    """Of an AioRpcError from the gateway, of our own errors, and, told as INTERNAL, of any other."""
    if isinstance(error, HttpError):
        return error.problem
    if isinstance(error, grpc.aio.AioRpcError):
        error = remote_error(error)
    return from_status(describe(error, request_id))


def from_status(status: Status) -> Problem:
    """Of a google.rpc.Status, such as those inside events."""
    info, retry, request = details.ErrorInfo(), details.RetryInfo(), details.RequestInfo()
    fields = details.BadRequest()
    violations: list[tuple[str, str]] = []
    for part in status.details:
        for message in (info, retry, request):
            unpack(part, message)
        if part.Is(fields.DESCRIPTOR):
            unpack(part, fields)
            violations += [(item.field, item.description) for item in fields.field_violations]
    return Problem(
        status=TABLE.get(CODES.get(status.code, StatusCode.UNKNOWN), 500),
        detail=status.message,
        reason=info.reason,
        request_id=request.request_id,
        metadata=dict(info.metadata),
        violations=violations,
        retry_after_s=retry_delay_s(retry),
    )
