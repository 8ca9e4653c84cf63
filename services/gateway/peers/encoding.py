"""One call that has a decoder encode a picture or a clip: what comes is passed on unread."""

from dataclasses import dataclass
from typing import Any

import grpc

from cascade.v1 import decoder_pb2
from services.gateway.base.settings import Settings
from services.gateway.peers.decoder_stream import DecoderPeer
from services.gateway.peers.stream import StreamLost, converse, metadata
from services.gateway.peers.wire import take_out

METHOD = "/cascade.v1.DecoderService/Encode"
Response = decoder_pb2.EncodeResponse


@dataclass(frozen=True)
class Encoded:
    """The latents of a file."""

    blocks: tuple[bytes, ...]
    """LatentBlocks, serialized, from 0 on."""
    is_first_frame: bool
    """It is one latent frame: what the very first block begins with."""


async def encode(
    peer: DecoderPeer, request: decoder_pb2.EncodeRequest, settings: Settings, timeout_s: float
) -> Encoded:
    """Raises StreamLost, whose `error` is what the decoder said."""
    open_call: Any = peer.channel.unary_stream(
        METHOD, request_serializer=decoder_pb2.EncodeRequest.SerializeToString
    )
    call = open_call(request, timeout=timeout_s, metadata=metadata(settings.peer, request.session, 1))
    blocks: list[bytes] = []
    is_first_frame = False

    async def read() -> None:
        nonlocal is_first_frame
        while (message := await call.read()) is not grpc.aio.EOF:
            block, others = take_out(message, Response.BLOCK_FIELD_NUMBER)
            is_first_frame = is_first_frame or Response.FromString(others).first_frame
            blocks.append(bytes(block))
            if len(blocks) > request.max_blocks:
                raise StreamLost(f"{peer.address}: more than {request.max_blocks} blocks")

    await converse(call, peer, read())
    if not blocks or (is_first_frame and len(blocks) > 1):
        raise StreamLost(f"{peer.address}: {len(blocks)} blocks, where at least one belongs")
    return Encoded(tuple(blocks), is_first_frame)
