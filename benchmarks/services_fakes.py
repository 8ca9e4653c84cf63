"""A stage and a decoder that compute nothing: real-size messages at playback rate, stamped when sent.

python -m benchmarks.services_fakes stage --bytes 600000 --interval 0.75
python -m benchmarks.services_fakes decoder --bytes 150000
python -m benchmarks.services_fakes film --bytes 150000

They keep as much of their contracts as an undisturbed session needs, and as little of the CPU as they can:
they share the machine with the gateway that is measured.
"""

import argparse
import asyncio
import json
import struct
import sys
import time
import uuid
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any, cast

import grpc
import numpy as np
from google.protobuf.message import Message

from cascade.v1 import common_pb2, decoder_pb2, stage_pb2
from services.common.entry import spare_collections
from services.decoder.segments import SegmentEncoder
from services.decoder.video_settings import VideoSettings

MAX_BYTES = 17 * 2**20
STAMPS = struct.Struct("<ddd")
"""In the first bytes of latents and segments, on this machine's monotonic clock: when the stage sent the
latents, when the decoder had them, when it sent the segment."""
NUM_SESSIONS = 10_000
FRAMES, FPS = 12, 16
SIDE = 224
"""Of the pictures of a film."""


def added_s(data: bytes, received_s: float) -> float:
    """Seconds of a segment's way from the stage to the client, without the decoder's own."""
    stage_sent, decoder_received, decoder_sent = STAMPS.unpack_from(data)
    return float(decoder_received - stage_sent + received_s - decoder_sent)


class FakeStage:
    """StageService: for each session a block every `interval_s`, as credit allows."""

    service = "cascade.v1.StageService"
    methods = (
        ("Generate", stage_pb2.GenerateRequest),
        ("WatchStatus", stage_pb2.StageServiceWatchStatusRequest),
    )

    def __init__(self, num_bytes: int, interval_s: float) -> None:
        self._filler = bytes(num_bytes - STAMPS.size)
        self._interval_s = interval_s

    async def Generate(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Message]:
        opening = (await anext(requests)).open
        credit = Credit(opening.credit_end_block)
        reading = asyncio.create_task(credit.read(requests))
        response = stage_pb2.GenerateResponse()
        response.opened.epoch, response.opened.revision = opening.epoch, "fake"
        try:
            yield response
            due_s, block = time.monotonic(), opening.start_block
            while await credit.has(block):
                due_s = max(due_s, time.monotonic() - self._interval_s) + self._interval_s
                await asyncio.sleep(due_s - time.monotonic())
                yield self._block(block)
                block += 1
            response.ended.reason = stage_pb2.GenerateResponse.Ended.REASON_CLOSED
            yield response
        finally:
            reading.cancel()

    def _block(self, block: int) -> Message:
        response = stage_pb2.GenerateResponse()
        response.block.latency.FromMilliseconds(1)
        response.block.tick_time.FromMilliseconds(1)
        latents = response.block.block
        latents.index, latents.latents.dtype = block, common_pb2.DATA_TYPE_BFLOAT16
        latents.latents.shape.extend((3, 16, 60, 104))
        latents.latents.data = STAMPS.pack(time.monotonic(), 0.0, 0.0) + self._filler
        return response

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[Message]:
        model = stage_pb2.ModelInfo(
            model="demo",
            revision="fake",
            block_frames=3,
            sink_blocks=1,
            context_blocks=4,
            num_passes=5,
            fps=FPS,
        )
        model.width, model.height, model.max_pixels = 832, 480, 832 * 480
        status = stage_pb2.StageStatus(
            state=common_pb2.SERVING_STATE_READY, model=model, max_sessions=NUM_SESSIONS, world_size=5
        )
        status.server.instance_id = uuid.uuid4().hex
        while True:
            yield stage_pb2.StageServiceWatchStatusResponse(status=status)
            await asyncio.sleep(request.interval.ToMilliseconds() / 1000)


class FakeDecoder:
    """DecoderService: each block answered at once."""

    service = "cascade.v1.DecoderService"
    methods = (
        ("Decode", decoder_pb2.DecodeRequest),
        ("WatchStatus", decoder_pb2.DecoderServiceWatchStatusRequest),
    )

    def __init__(self, num_bytes: int) -> None:
        self._filler = bytes(num_bytes - STAMPS.size)
        self.mime_type, self.init = "video/mp4", b"init"

    async def Decode(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Message]:
        opening = (await anext(requests)).open
        response = decoder_pb2.DecodeResponse()
        response.opened.epoch, response.opened.max_pending_blocks = opening.epoch, 4
        yield response
        for profile in opening.profiles:
            init = common_pb2.MediaInit(profile_id=profile.id, mime_type=self.mime_type, data=self.init)
            yield decoder_pb2.DecodeResponse(media_init=init)
        num_blocks = 0
        async for request in requests:
            if not request.HasField("block"):
                break
            num_blocks += 1
            yield self._segment(request.block, opening.profiles[0].id)
        response.ended.num_blocks = num_blocks
        yield response

    def _segment(self, block: Any, profile_id: str) -> Message:
        received_s = time.monotonic()
        stage_sent_s = STAMPS.unpack_from(block.latents.data)[0]
        response = decoder_pb2.DecodeResponse()
        response.segment.decode_time.FromMilliseconds(1)
        media, first = response.segment.media, max(0, FRAMES * block.index - 3)
        media.profile_id, media.block, media.first_frame = profile_id, block.index, first
        media.num_frames = FRAMES if block.index else FRAMES - 3
        media.presentation_time.FromMilliseconds(round(1e3 * first / FPS))
        media.duration.FromMilliseconds(round(1e3 * media.num_frames / FPS))
        media.data = STAMPS.pack(stage_sent_s, received_s, time.monotonic()) + self._filler
        return response

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[Message]:
        status = decoder_pb2.DecoderStatus(
            state=common_pb2.SERVING_STATE_READY,
            max_sessions=NUM_SESSIONS,
            models=["demo"],
            encoders=[common_pb2.VIDEO_ENCODER_SOFTWARE],
            warmup_blocks=2,
        )
        status.server.instance_id = uuid.uuid4().hex
        while True:
            yield decoder_pb2.DecoderServiceWatchStatusResponse(status=status)
            await asyncio.sleep(request.interval.ToMilliseconds() / 1000)


class FilmDecoder(FakeDecoder):
    """Its segments are H.264: noise, of about as many bytes, without stamps."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        bitrate = round(8 * num_bytes * FPS / FRAMES)
        settings = VideoSettings(width=SIDE, height=SIDE, fps=Fraction(FPS), bitrate=bitrate)
        self._encoder = SegmentEncoder(settings)
        self._noise = np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
        self.mime_type, self.init = self._encoder.mime_type, self._encoder.init_segment

    def _segment(self, block: Any, profile_id: str) -> Message:
        response: Any = super()._segment(block, profile_id)
        media = response.segment.media
        with self._encoder.block(media.block, media.first_frame) as pictures:
            media.data = pictures.encode(self._noise[: media.num_frames], is_last=True).data
        return cast(Message, response)


class Credit:
    """What a Generate stream may send."""

    def __init__(self, end_block: int) -> None:
        self._end_block = end_block
        self._is_closed = False
        self._news = asyncio.Event()

    async def has(self, block: int) -> bool:
        """Wait until this block may be sent; False: the client has closed."""
        while block >= self._end_block and not self._is_closed:
            self._news.clear()
            await self._news.wait()
        return not self._is_closed

    async def read(self, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            if request.HasField("credit"):
                self._end_block = max(self._end_block, request.credit.end_block)
                self._news.set()
            elif request.HasField("close"):
                break
        self._is_closed = True
        self._news.set()


async def serve(arguments: argparse.Namespace) -> None:
    options = [
        ("grpc.max_receive_message_length", MAX_BYTES),
        ("grpc.max_send_message_length", MAX_BYTES),
        ("grpc.max_concurrent_streams", NUM_SESSIONS),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ]
    server = grpc.aio.server(options=options)
    fake: FakeStage | FakeDecoder
    if arguments.kind == "stage":
        fake = FakeStage(arguments.bytes, arguments.interval)
    else:
        fake = {"decoder": FakeDecoder, "film": FilmDecoder}[arguments.kind](arguments.bytes)
    server.add_generic_rpc_handlers((handler_of(fake),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"event": "listening", "port": port}), file=sys.stderr, flush=True)
    await asyncio.Event().wait()


def handler_of(fake: FakeStage | FakeDecoder) -> grpc.GenericRpcHandler:
    """All its methods answer with a stream."""
    handlers: dict[str, Any] = {}
    for name, request in fake.methods:
        takes_stream = name != "WatchStatus"
        make = grpc.stream_stream_rpc_method_handler if takes_stream else grpc.unary_stream_rpc_method_handler
        handlers[name] = make(
            getattr(fake, name), request.FromString, lambda message: message.SerializeToString()
        )
    return grpc.method_handlers_generic_handler(fake.service, handlers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("stage", "decoder", "film"))
    parser.add_argument("--bytes", type=int, required=True, help="of one block's latents, or of a segment")
    parser.add_argument("--interval", type=float, default=0.75, help="seconds per block and session")
    spare_collections()  # its pauses would count as the gateway's
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
