"""The worker's answers as messages of the contract."""

from collections.abc import Iterator
from fractions import Fraction

from cascade.v1 import common_pb2, decoder_pb2
from services.common.durations import to_duration
from services.decoder.admission import Open
from services.decoder.messages import BlockEncoded, PartEncoded

Response = decoder_pb2.DecodeResponse


def init_of(profile: common_pb2.MediaProfile, mime_type: str, data: bytes) -> common_pb2.MediaInit:
    return common_pb2.MediaInit(profile_id=profile.id, mime_type=mime_type, data=data)


def segments_of(block: BlockEncoded, opening: Open, fps: Fraction) -> Iterator[Response]:
    """One message per profile, in the order of `open`."""
    for profile, piece in zip(opening.profiles, block.pieces, strict=True):
        segment = Response.Segment(
            media=_media(profile, block, piece.data, fps),
            queue_time=to_duration(block.queue_s),
            decode_time=to_duration(block.decode_s),
            encode_time=to_duration(piece.encode_s),
        )
        yield Response(segment=segment)


def parts_of(part: PartEncoded, opening: Open, fps: Fraction) -> Iterator[Response]:
    """As `segments_of`."""
    for profile, data in zip(opening.profiles, part.pieces, strict=True):
        yield Response(part=Response.Part(index=part.index, media=_media(profile, part, data, fps)))


def _media(
    profile: common_pb2.MediaProfile, place: BlockEncoded | PartEncoded, data: bytes, fps: Fraction
) -> common_pb2.MediaSegment:
    return common_pb2.MediaSegment(
        profile_id=profile.id,
        block=place.block,
        first_frame=place.first_frame,
        num_frames=place.num_frames,
        presentation_time=to_duration(place.first_frame / fps),
        duration=to_duration(place.num_frames / fps),
        data=data,
    )
