"""A journalled segment: one block in every profile, as the session's clients receive it.

Put together and taken apart without a look at the media (see peers/wire.py).
"""

from collections.abc import Iterable
from itertools import islice

from cascade.v1 import session_pb2
from services.gateway.peers.made import MadeSegment
from services.gateway.peers.wire import Parts, field, field_parts, prefixed, split, take_out

Response = session_pb2.ConnectResponse
Segment = Response.Segment


def segment_of(made: MadeSegment, epoch: int, now_ms: int) -> Parts:
    """A Segment, serialized, in parts."""
    about = Segment(sequence=made.said.media.block + 1, epoch=epoch)
    about.create_time.FromMilliseconds(now_ms)
    return about.SerializeToString(), *field_parts(Segment.MEDIA_FIELD_NUMBER, made.media)


def pack(profiles: Iterable[Parts]) -> bytes:
    """For the journal: Segments in the order of the session's profiles."""
    return b"".join(part for segment in profiles for part in prefixed(*segment))


def as_response(data: bytes, profile: int) -> bytes:
    """A ConnectResponse with the Segment of this profile, serialized."""
    return field(Response.SEGMENT_FIELD_NUMBER, next(islice(split(data), profile, None)))


def create_ms(data: bytes) -> int:
    """When this block was made."""
    _, about = take_out(next(split(data)), Segment.MEDIA_FIELD_NUMBER)
    return Segment.FromString(about).create_time.ToMilliseconds()
