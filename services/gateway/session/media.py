"""A journalled segment: one block in every profile, as the session's clients receive it."""

from collections.abc import Iterator, Sequence
from io import BytesIO

from google.protobuf import proto

from cascade.v1 import session_pb2

Segment = session_pb2.ConnectResponse.Segment


def pack(profiles: Sequence[Segment]) -> bytes:
    """For the journal."""
    file = BytesIO()
    for segment in profiles:
        proto.serialize_length_prefixed(segment, file)
    return file.getvalue()


def unpack(data: bytes) -> Iterator[Segment]:
    """In the order of the session's profiles."""
    file = BytesIO(data)
    while (segment := proto.parse_length_prefixed(Segment, file)) is not None:
        yield segment


def create_ms(data: bytes) -> int:
    """When this block was made."""
    return next(unpack(data)).create_time.ToMilliseconds()
