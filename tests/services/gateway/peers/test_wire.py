"""Bytes put together by hand are what protobuf writes."""

import pytest

from cascade.v1 import common_pb2, decoder_pb2
from services.gateway.peers.wire import field


@pytest.mark.parametrize("num_bytes", [1, 100, 127, 128, 16_383, 16_384, 600_000, 3_000_000])
def test_field(num_bytes: int) -> None:
    tensor = common_pb2.Tensor(
        dtype=common_pb2.DATA_TYPE_BFLOAT16, shape=[3, 16, 60, 104], data=bytes(num_bytes)
    )
    block = common_pb2.LatentBlock(index=7, latents=tensor)
    wire = field(decoder_pb2.DecodeRequest.BLOCK_FIELD_NUMBER, block.SerializeToString())
    assert wire == decoder_pb2.DecodeRequest(block=block).SerializeToString()


def test_high_field_number() -> None:
    assert field(16, b"ab") == b"\x82\x01\x02ab"
