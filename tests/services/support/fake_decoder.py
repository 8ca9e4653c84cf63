"""A decoder without a picture: it keeps the contract of decoder.proto, and its segments carry the Mark of the
latents that they are made of.

As a process:
`python -m tests.services.support.fake_decoder --port 50071 --capacity 200 --segment-bytes 150000`.
"""

import argparse
import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from cascade.v1 import common_pb2, decoder_pb2, decoder_pb2_grpc
from cascade_core.errors import InvalidRequest, UnknownModel
from services.common.errors import ProtocolViolation, with_details
from services.common.validation import validate
from tests.services.support.fake_machine import FORMAT, Machine, Mark, Stream, next_of, prompt_mark, told
from tests.services.support.fake_stage import serve

Request, Response = decoder_pb2.DecodeRequest, decoder_pb2.DecodeResponse
ENCODE = -2
"""Instead of a block's number: at the encoding of a file."""
UNUSABLE = b"unusable"
FIRST_FRAME = b"first frame"


class FakeDecoder(Machine):
    """Answers each block with one segment per profile, and its parts before it where they are wanted."""

    def __init__(
        self,
        *,
        segment_bytes: int = 64,
        block_s: float = 0.0,
        models: tuple[str, ...] = ("demo",),
        warmup_blocks: int = 2,
        max_pending: int = 2,
        encoder_name: str = "fake",
        **machine: Any,
    ) -> None:
        """`block_s`: seconds per block, of which each part takes its share. `encoder_name`: stands in the
        MediaInit, which differs with it."""
        super().__init__(**machine)
        self.block_s = block_s
        self.models = models
        self.warmup_blocks = warmup_blocks
        self.max_pending = max_pending
        self.encoder_name = encoder_name
        self.can_encode = True
        self.gate = asyncio.Event()
        """Closed, a block stands still before its last part."""
        self.gate.set()
        self.num_parts = 0
        """That it has sent."""
        self.has_parts = True
        """Else it is one of a former release."""
        self.filler_bytes = 64
        """Of the latents that it encodes."""
        self.encoded: list[decoder_pb2.EncodeRequest] = []
        """All that were asked for, over all processes at this address."""
        self.filler = bytes(max(0, segment_bytes - FORMAT.size))

    def parts(self, media: common_pb2.MediaSegment, mark: bytes) -> list[bytes]:
        """The video of a segment, in parts."""
        data = mark + self.filler
        ends = [0, len(mark), len(mark) + len(self.filler) // 2, len(data)]
        return [data[start:end] for start, end in pairwise(ends)]

    def register(self, server: grpc.aio.Server) -> None:
        decoder_pb2_grpc.add_DecoderServiceServicer_to_server(self, server)

    def fill_status(self, status: decoder_pb2.DecoderStatus) -> None:
        status.models.extend(self.models)
        status.codecs.append(common_pb2.VIDEO_CODEC_H264)
        status.encoders.append(common_pb2.VIDEO_ENCODER_SOFTWARE)
        status.warmup_blocks = self.warmup_blocks
        status.can_encode = self.can_encode

    async def Decode(self, requests: Any, context: Any) -> AsyncIterator[Response]:
        async for response in told(self._decode(aiter(requests)), context):
            yield response

    async def Encode(self, request: Any, context: Any) -> AsyncIterator[decoder_pb2.EncodeResponse]:
        async for response in told(self._encode(request), context):
            yield response

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for report in self.watch(request, decoder_pb2.DecoderServiceWatchStatusResponse, context):
            yield report

    async def Drain(self, request: Any, context: Any) -> decoder_pb2.DecoderServiceDrainResponse:
        return decoder_pb2.DecoderServiceDrainResponse(drain=self.take_drain(request))

    async def _encode(self, request: decoder_pb2.EncodeRequest) -> AsyncIterator[decoder_pb2.EncodeResponse]:
        """A picture is one block, a clip as many as it has bytes."""
        validate(request)
        self.encoded.append(request)
        await self.suffer(ENCODE)
        await self.audible()
        kind = request.file.WhichOneof("file") or ""
        file = getattr(request.file, kind)
        if file == UNUSABLE:
            raise with_details(
                InvalidRequest("file.video: is no MP4"), violations=[(f"file.{kind}", "is no MP4")]
            )
        number = min(len(file), request.max_blocks) if kind == "video" else 1
        for index in range(number):
            data = Mark(index, 0, prompt_mark(kind)).pack() + bytes(self.filler_bytes)
            latents = common_pb2.Tensor(dtype=common_pb2.DATA_TYPE_BFLOAT16, shape=[3, 1, 1, 1], data=data)
            block = common_pb2.LatentBlock(index=index, latents=latents)
            yield decoder_pb2.EncodeResponse(block=block, first_frame=file == FIRST_FRAME)

    async def _decode(self, requests: AsyncIterator[Request]) -> AsyncIterator[Response]:
        opening = await next_of(requests, "open")
        validate(Request(open=opening))
        if opening.model not in self.models:
            raise UnknownModel(f"{opening.model} is none of {', '.join(self.models)}")
        stream = DecodeStream(self, opening)
        await self.admit(stream)
        reading = None
        try:
            await stream.take_warmup(requests)
            await asyncio.sleep(self.open_s)
            await self.audible()
            yield Response(opened=Response.Opened(epoch=stream.epoch, max_pending_blocks=self.max_pending))
            for profile in opening.profiles:
                yield Response(media_init=media_init(profile.id, self.encoder_name))
            reading = asyncio.create_task(stream.read(requests))
            async for response in stream.responses():
                await self.audible()
                yield response
        finally:
            self.leave(stream)
            if reading:
                reading.cancel()


class DecodeStream(Stream):
    """One session at the decoder."""

    machine: FakeDecoder

    def __init__(self, machine: FakeDecoder, opening: Request.Open) -> None:
        super().__init__(machine, opening.session, opening.epoch)
        self.opening = opening
        self.warmup: list[Mark] = []
        self.marks: list[Mark] = []
        """Of the blocks to decode, as they came."""
        self.most_pending = 0
        self.num_answered = 0
        self.next_block = opening.start_block
        self._pending: deque[common_pb2.LatentBlock] = deque()

    async def take_warmup(self, requests: AsyncIterator[Request]) -> None:
        start = self.opening.start_block
        for block in range(start - self.opening.num_warmup_blocks, start):
            latents = await next_of(requests, "block")
            mark = Mark.of(latents.latents.data)
            if latents.index != block or mark.block != block:
                raise ProtocolViolation(f"warm-up block {block} is due, not {latents.index}")
            self.warmup.append(mark)

    def take(self, request: Request) -> None:
        match request.WhichOneof("message"):
            case "block":
                self._take_block(request.block)
            case "close":
                self.is_closing = True
            case kind:
                raise ProtocolViolation(f"{kind} does not belong here")

    def _take_block(self, block: common_pb2.LatentBlock) -> None:
        mark = Mark.of(block.latents.data)
        if block.index != self.next_block or mark.block != self.next_block:
            raise ProtocolViolation(f"block {self.next_block} is due, not {block.index}")
        self.next_block += 1
        self.marks.append(mark)
        self._pending.append(block)
        self.most_pending = max(self.most_pending, len(self._pending))
        if len(self._pending) > self.machine.max_pending:
            raise ProtocolViolation(f"{len(self._pending)} blocks are unanswered")

    async def responses(self) -> AsyncIterator[Response]:
        """From `opened` to `ended`."""
        while True:
            self.news.clear()
            if self.error:
                raise self.error
            if self.machine.drain and not self.is_drain_told:
                self.is_drain_told = True
                draining = Response.Draining()
                draining.time_left.FromMilliseconds(int(1000 * self.machine.drain_left_s()))
                yield Response(draining=draining)
            elif self._pending:
                async for response in self._answer():
                    yield response
            elif self.is_closing:
                yield Response(ended=Response.Ended(num_blocks=self.num_answered))
                return
            else:
                await self.news.wait()

    async def _answer(self) -> AsyncIterator[Response]:
        """Taken as answered when it is about to be sent: the client may send the next one at once."""
        block, machine = self._pending[0], self.machine
        segments = [segment_of(block, self.opening, profile.id) for profile in self.opening.profiles]
        parts = [machine.parts(each.segment.media, block.latents.data[: FORMAT.size]) for each in segments]
        for index in range(len(parts[0])):
            await asyncio.sleep(machine.block_s / len(parts[0]))
            if index == len(parts[0]) - 1:
                await machine.gate.wait()
            for segment, data in zip(segments, parts, strict=True):
                if self.opening.with_parts and machine.has_parts:
                    machine.num_parts += 1
                    yield part_of(segment, index, data)
        await machine.suffer(block.index)
        self._pending.popleft()
        self.num_answered += 1
        machine.num_blocks += 1
        for segment, data in zip(segments, parts, strict=True):
            segment.segment.media.data = b"".join(data)
            yield segment


def part_of(segment: Response, index: int, data: Sequence[bytes]) -> Response:
    """The first has the pictures that are left when each of the others has four."""
    media, rest = segment.segment.media, 4 * (len(data) - 1)
    picture_s = media.duration.ToNanoseconds() / 1e9 / media.num_frames
    number = 4 if index else media.num_frames - rest
    first = media.first_frame + (media.num_frames - rest + 4 * (index - 1) if index else 0)
    part = common_pb2.MediaSegment(
        profile_id=media.profile_id,
        block=media.block,
        first_frame=first,
        num_frames=number,
        presentation_time=seconds(first * picture_s),
        duration=seconds(number * picture_s),
        data=data[index],
    )
    return Response(part=Response.Part(index=index, media=part))


def segment_of(block: common_pb2.LatentBlock, opening: Request.Open, profile_id: str) -> Response:
    """Without its data."""
    frames, origin = 4 * block.latents.shape[0], opening.origin_block
    first = max(0, frames * block.index - 3) - max(0, frames * origin - 3)
    number = frames if block.index else frames - 3
    media = common_pb2.MediaSegment(
        profile_id=profile_id,
        block=block.index - origin,
        first_frame=first,
        num_frames=number,
        presentation_time=seconds(first / opening.fps),
        duration=seconds(number / opening.fps),
    )
    return Response(segment=Response.Segment(media=media))


def media_init(profile_id: str, encoder_name: str) -> common_pb2.MediaInit:
    data = f"init {profile_id} {encoder_name}".encode()
    return common_pb2.MediaInit(profile_id=profile_id, mime_type='video/mp4; codecs="avc1.640028"', data=data)


def seconds(number: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(number * 1e9))
    return duration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--capacity", type=int, default=4)
    parser.add_argument("--segment-bytes", type=int, default=64)
    parser.add_argument("--block-s", type=float, default=0.0)
    parser.add_argument("--open-s", type=float, default=0.0)
    parser.add_argument("--warmup-blocks", type=int, default=2)
    asyncio.run(serve(FakeDecoder(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
