"""What the service and the process that opens a file say to each other. Not by pickle, as with the decoder's
worker: what comes from where a stranger's file was opened is looked at as if the stranger had sent it.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, BinaryIO

from cascade_core.media.start.start_file import StartBounds, StartFile, StartShape

HEADER = struct.Struct("!cQ")
"""Kind and length, before each answer."""
NUMBER, PICTURE, FAULT = b"N", b"P", b"F"
"""How many pictures come, in decimal; one picture, RGB; what is wrong with the file, as UnusableFile has
it."""
LENGTHS = struct.Struct("!QQ")
"""Of the header and of the file, before both."""


@dataclass(frozen=True)
class Task:
    """A file to be opened."""

    file: StartFile
    shape: StartShape
    bounds: StartBounds
    memory_bytes: int
    """That opening it may take, beyond the program itself."""

    @property
    def picture_bytes(self) -> int:
        return 3 * self.shape.width * self.shape.height


def pack(kind: bytes, data: bytes) -> bytes:
    """One answer."""
    return HEADER.pack(kind, len(data)) + data


def pack_task(task: Task) -> tuple[bytes, bytes]:
    """Lengths and header, then the file."""
    file = asdict(task.file)
    data: bytes = file.pop("data")
    shape = asdict(task.shape) | {"fps": str(task.shape.fps)}
    fields = {"file": file, "shape": shape, "bounds": asdict(task.bounds), "memory_bytes": task.memory_bytes}
    header = json.dumps(fields).encode()
    return LENGTHS.pack(len(header), len(data)) + header, data


def read_task(stream: BinaryIO) -> Task:
    """Raises EOFError where it is cut short: whoever wanted it is gone."""
    header_bytes, file_bytes = LENGTHS.unpack(_exactly(stream, LENGTHS.size))
    fields: Mapping[str, Any] = json.loads(_exactly(stream, header_bytes))
    shape = fields["shape"] | {"fps": Fraction(fields["shape"]["fps"])}
    return Task(
        StartFile(**fields["file"], data=_exactly(stream, file_bytes)),
        StartShape(**shape),
        StartBounds(**fields["bounds"]),
        fields["memory_bytes"],
    )


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
