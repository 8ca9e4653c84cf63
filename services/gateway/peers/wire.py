"""Parts of messages that go through unread: their bytes are taken out, and put into place, as protobuf would.

Latents and segments are nearly all that comes and goes, and nobody here looks into them: to parse them and to
write them again would copy them four times more. See protobuf.dev, "Encoding".
"""

from collections.abc import Iterator
from typing import TypeAlias

from google.protobuf.message import DecodeError

Bytes: TypeAlias = bytes | memoryview
Parts: TypeAlias = tuple[Bytes, ...]
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def field(number: int, *parts: Bytes) -> bytes:
    """A field that holds a serialized message, in one part or several; fields put together are a message."""
    return b"".join(field_parts(number, *parts))


def field_parts(number: int, *parts: Bytes) -> Parts:
    """The same, not put together yet: every join is a copy."""
    return _varint(number << 3 | LENGTH), *prefixed(*parts)


def prefixed(*parts: Bytes) -> Parts:
    """A serialized message in a file of several, as `google.protobuf.proto` writes them; to be joined."""
    return _varint(sum(map(len, parts))), *parts


def split(file: Bytes) -> Iterator[memoryview]:
    """The serialized messages of such a file."""
    view, at = memoryview(file), 0
    while at < len(view):
        length, start = _read_varint(view, at)
        at = start + length
        yield view[start:at]


def first_field(message: Bytes) -> int:
    """Number of the field that comes first: in a message that is one oneof, which it holds. 0: none."""
    return _read_varint(memoryview(message), 0)[0] >> 3 if message else 0


def take_out(message: Bytes, number: int) -> tuple[memoryview, bytes]:
    """What this field holds (a message or bytes; empty where it is not set), and the message without it.

    Raises DecodeError for what no serializer writes, the field twice among it.
    """
    view, found, others = memoryview(message), memoryview(b""), []
    for each, start, value, end in _fields(view):
        if each != number:
            others.append(view[start:end])
        elif found or view[start] & 7 != LENGTH:
            raise DecodeError(f"field {number}: comes twice, or has another type")
        else:
            found = view[value:end]
    return found, b"".join(others)


def _fields(view: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Number, and where field, value and end are."""
    at = 0
    while at < len(view):
        start = at
        tag, at = _read_varint(view, at)
        kind, value = tag & 7, at
        if kind == VARINT:
            at = _read_varint(view, at)[1]
        elif kind == LENGTH:
            length, value = _read_varint(view, at)
            at = value + length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise DecodeError(f"no field has wire type {kind}")
        if at > len(view):
            raise DecodeError("the message is cut off")
        yield tag >> 3, start, value, at


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    value = shift = 0
    while at < len(view) and shift < 64:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise DecodeError("a number is cut off, or too long")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
