"""A journalled segment: one block in every profile, as the session's clients receive it.

Put together and taken apart without a look at the media (see peers/wire.py).
"""

from collections.abc import Iterable
from itertools import islice

from cascade.v1 import common_pb2, session_pb2
from services.gateway.peers.made import MadePart, MadeSegment
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
    return field(Response.SEGMENT_FIELD_NUMBER, of_profile(data, profile))


def as_end(data: bytes, profile: int, num_parts: int, num_frames: int) -> bytes | None:
    """The same without its video, for a client that has had these parts; None: they are not all of it."""
    media, about = take_out(of_profile(data, profile), Segment.MEDIA_FIELD_NUMBER)
    _, details = take_out(media, common_pb2.MediaSegment.DATA_FIELD_NUMBER)
    segment = Segment.FromString(about + field(Segment.MEDIA_FIELD_NUMBER, details))
    segment.num_parts = num_parts
    return Response(segment=segment).SerializeToString() if segment.media.num_frames == num_frames else None


def part_of(made: MadePart, epoch: int) -> bytes:
    """A ConnectResponse with the Part, serialized."""
    about = Response.Part(sequence=made.said.media.block + 1, epoch=epoch, index=made.said.index)
    media = field_parts(Response.Part.MEDIA_FIELD_NUMBER, made.media)
    return field(Response.PART_FIELD_NUMBER, about.SerializeToString(), *media)


def of_profile(data: bytes, profile: int) -> memoryview:
    """The Segment of this profile, serialized."""
    return next(islice(split(data), profile, None))


def create_ms(data: bytes) -> int:
    """When this block was made."""
    _, about = take_out(next(split(data)), Segment.MEDIA_FIELD_NUMBER)
    return Segment.FromString(about).create_time.ToMilliseconds()
