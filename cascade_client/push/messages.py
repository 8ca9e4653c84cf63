"""What the client tells the relay on its standard input; the relay answers in lines.

A message is a letter, a length and that many bytes. Each segment is answered by an empty line once its last
picture has been sent, and a failure by a line that says why, which is the last.
"""

import json
import struct
from typing import BinaryIO

from cascade_client.push.target import Target

HEADER = struct.Struct(">cI")
TARGET, INIT, SEGMENT = b"t", b"i", b"s"
DONE = b"\n"


def pack(kind: bytes, data: bytes) -> bytes:
    return HEADER.pack(kind, len(data)) + data


def pack_target(target: Target) -> bytes:
    return pack(TARGET, json.dumps([target.url, target.token]).encode())


def read(source: BinaryIO) -> tuple[bytes, bytes] | None:
    """Kind and data of the next message; None at the end. Raises EOFError in the middle of one."""
    header = source.read(HEADER.size)
    if not header:
        return None
    kind, size = HEADER.unpack(header.ljust(HEADER.size, b"\0"))
    data = source.read(size)
    if len(header) < HEADER.size or len(data) < size:
        raise EOFError
    return kind, data


def unpack_target(data: bytes) -> Target:
    return Target(*json.loads(data))
