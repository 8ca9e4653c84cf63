"""Bytes put together and taken apart by hand are what protobuf writes and reads."""

from io import BytesIO

import pytest
from google.protobuf import proto
from google.protobuf.message import DecodeError

from cascade.v1 import common_pb2, decoder_pb2, session_pb2, stage_pb2
from services.gateway.peers.made import made_block, made_segment
from services.gateway.peers.wire import field, first_field, prefixed, split, take_out
from services.gateway.session.media import as_response, create_ms, pack, segment_of

SIZES = [1, 100, 127, 128, 16_383, 16_384, 600_000, 3_000_000]


def latents(num_bytes: int, index: int = 7) -> common_pb2.LatentBlock:
    tensor = common_pb2.Tensor(
        dtype=common_pb2.DATA_TYPE_BFLOAT16, shape=[3, 16, 60, 104], data=bytes(num_bytes)
    )
    return common_pb2.LatentBlock(index=index, latents=tensor)


def segment(num_bytes: int, profile: str = "main") -> decoder_pb2.DecodeResponse.Segment:
    made = decoder_pb2.DecodeResponse.Segment()
    made.queue_time.FromMilliseconds(3)
    made.encode_time.FromMilliseconds(5)
    media = made.media
    media.profile_id, media.block, media.first_frame, media.num_frames = profile, 300, 3600, 12
    media.duration.FromMilliseconds(750)
    media.data = b"\x07" * num_bytes
    return made


@pytest.mark.parametrize("num_bytes", SIZES)
def test_field(num_bytes: int) -> None:
    block = latents(num_bytes)
    wire = field(decoder_pb2.DecodeRequest.BLOCK_FIELD_NUMBER, block.SerializeToString())
    assert wire == decoder_pb2.DecodeRequest(block=block).SerializeToString()
    assert first_field(wire) == decoder_pb2.DecodeRequest.BLOCK_FIELD_NUMBER


def test_high_field_number() -> None:
    assert field(16, b"a", b"b") == b"\x82\x01\x02ab"
    assert first_field(field(16, b"ab")) == 16


@pytest.mark.parametrize("num_bytes", SIZES)
@pytest.mark.parametrize("index", [0, 2**31 - 1])
def test_a_block_goes_through_unread(num_bytes: int, index: int) -> None:
    block = stage_pb2.GenerateResponse.Block(block=latents(num_bytes, index))
    block.latency.FromMilliseconds(700)
    block.ticks.add(index=4).passes.add(block=9, pass_index=2, rank=1)
    made = made_block(stage_pb2.GenerateResponse(block=block).SerializeToString())
    assert made.latents == block.block.SerializeToString()
    block.block.ClearField("latents")
    assert made.said == block


@pytest.mark.parametrize("num_bytes", [0, *SIZES])
def test_a_segment_goes_through_unread(num_bytes: int) -> None:
    sent = [segment(num_bytes), segment(num_bytes + 1, "small")]
    made = [made_segment(decoder_pb2.DecodeResponse(segment=each).SerializeToString()) for each in sent]
    data = pack(segment_of(each, 2, 1_700_000_000_123) for each in made)
    file = BytesIO(data)
    kept = [proto.parse_length_prefixed(session_pb2.ConnectResponse.Segment, file) for _ in sent]
    for place, (each, one) in enumerate(zip(sent, kept, strict=True)):
        assert one is not None
        assert (one.sequence, one.epoch, one.media) == (301, 2, each.media)
        assert one.create_time.ToMilliseconds() == create_ms(data) == 1_700_000_000_123
        assert session_pb2.ConnectResponse.FromString(as_response(data, place)).segment == one
        assert made[place].num_bytes == num_bytes + place
        each.media.ClearField("data")
        assert made[place].said == each


def test_a_file_of_messages() -> None:
    messages, file = [segment(size).media for size in (0, 1, 300)], BytesIO()
    for message in messages:
        proto.serialize_length_prefixed(message, file)
    assert (
        b"".join(part for each in messages for part in prefixed(each.SerializeToString())) == file.getvalue()
    )
    assert [common_pb2.MediaSegment.FromString(each) for each in split(file.getvalue())] == messages


def test_fields_of_every_kind_are_passed_by() -> None:
    opening = stage_pb2.GenerateRequest.Open(session="s", epoch=300, fps=16.5, prompts={0: "a", 9: "b"})
    session, rest = take_out(opening.SerializeToString(), stage_pb2.GenerateRequest.Open.SESSION_FIELD_NUMBER)
    assert session == b"s"
    opening.ClearField("session")
    assert stage_pb2.GenerateRequest.Open.FromString(rest) == opening
    assert take_out(rest, 1) == (b"", rest)
    assert take_out(b"", 1) == (b"", b"")
    assert first_field(b"") == 0


@pytest.mark.parametrize(
    "message",
    [
        field(1, b"a") * 2,  # twice
        b"\x08\x01",  # a number
        b"\x0a\x05abc",  # cut off
        b"\x0a",
        b"\x80" * 11,  # a number without end
        b"\x0b",  # a group
        b"\x09\x01",  # 8 bytes, cut off
    ],
)
def test_what_nobody_writes_is_refused(message: bytes) -> None:
    with pytest.raises(DecodeError):
        take_out(message, 1)
