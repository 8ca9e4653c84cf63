"""A google.rpc.Status that fits into the metadata of a call, whatever it has to say."""

from collections.abc import Sequence

import grpc
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from services.common.remote import DOMAIN

MAX_MESSAGE_BYTES = 512
MAX_FIELD_BYTES = 256
MAX_METADATA_BYTES = 1024
MAX_STATUS_BYTES = 4096
"""Travels in base64 (4/3), beside the message in percent-encoding (at most 3x)."""


def pack(code: grpc.StatusCode, message: str, info: details.ErrorInfo, parts: Sequence[Message]) -> Status:
    """Put the parts into one Status, BadRequests as one, as many as fit."""
    status = Status(code=code.value[0], message=cut(message, MAX_MESSAGE_BYTES))
    bad_request = details.BadRequest()
    room = MAX_STATUS_BYTES - status.ByteSize()
    info.domain = DOMAIN
    for part in [info, *parts]:
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


def pass_on(theirs: Status, code: grpc.StatusCode, request_id: str) -> Status:
    """A peer's status under the id of our own call, with as many of its details as fit."""
    parts = [part for part in theirs.details if not part.Is(details.RequestInfo.DESCRIPTOR)]
    parts.sort(key=lambda part: not part.Is(details.ErrorInfo.DESCRIPTOR))  # the reason first
    ours = packed(details.RequestInfo(request_id=request_id))
    status = Status(code=code.value[0], message=cut(theirs.message, MAX_MESSAGE_BYTES))
    room = MAX_STATUS_BYTES - status.ByteSize()
    for part in [ours, *parts]:
        room -= part.ByteSize() + 8
        if room < 0:
            break
        status.details.append(part)
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
