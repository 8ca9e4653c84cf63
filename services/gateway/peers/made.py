"""What a stage and a decoder have made: what they say of it is read, the latents and the media are not."""

from dataclasses import dataclass

from cascade.v1 import common_pb2, decoder_pb2, stage_pb2
from services.gateway.peers.wire import Bytes, field, take_out

BlockMessage = stage_pb2.GenerateResponse.Block
SegmentMessage = decoder_pb2.DecodeResponse.Segment
PartMessage = decoder_pb2.DecodeResponse.Part


@dataclass(frozen=True)
class MadeBlock:
    """From a stage."""

    said: BlockMessage
    """All but the tensor."""
    latents: bytes
    """The LatentBlock, serialized."""


@dataclass(frozen=True)
class MadeSegment:
    """From a decoder, in one profile."""

    said: SegmentMessage
    """All but the bytes of the video."""
    media: memoryview
    """The MediaSegment, serialized."""
    num_bytes: int
    """Of the video."""


@dataclass(frozen=True)
class MadePart:
    """From a decoder, in one profile."""

    said: PartMessage
    """All but the bytes of the video."""
    media: memoryview
    """The MediaSegment, serialized."""


def made_block(message: Bytes) -> MadeBlock:
    """From a serialized GenerateResponse that holds a block. Raises DecodeError."""
    block, _ = take_out(message, stage_pb2.GenerateResponse.BLOCK_FIELD_NUMBER)
    latents, others = take_out(block, BlockMessage.BLOCK_FIELD_NUMBER)
    _, index = take_out(latents, common_pb2.LatentBlock.LATENTS_FIELD_NUMBER)
    said = BlockMessage.FromString(others + field(BlockMessage.BLOCK_FIELD_NUMBER, index))
    return MadeBlock(said, bytes(latents))


def made_segment(message: Bytes) -> MadeSegment:
    """From a serialized DecodeResponse that holds a segment. Raises DecodeError."""
    segment, _ = take_out(message, decoder_pb2.DecodeResponse.SEGMENT_FIELD_NUMBER)
    media, others = take_out(segment, SegmentMessage.MEDIA_FIELD_NUMBER)
    video, details = take_out(media, common_pb2.MediaSegment.DATA_FIELD_NUMBER)
    said = SegmentMessage.FromString(others + field(SegmentMessage.MEDIA_FIELD_NUMBER, details))
    return MadeSegment(said, media, len(video))


def made_part(message: Bytes) -> MadePart:
    """From a serialized DecodeResponse that holds a part. Raises DecodeError."""
    part, _ = take_out(message, decoder_pb2.DecodeResponse.PART_FIELD_NUMBER)
    media, others = take_out(part, PartMessage.MEDIA_FIELD_NUMBER)
    _, details = take_out(media, common_pb2.MediaSegment.DATA_FIELD_NUMBER)
    return MadePart(PartMessage.FromString(others + field(PartMessage.MEDIA_FIELD_NUMBER, details)), media)
