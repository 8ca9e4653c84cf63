"""A session's stream to its decoder: opens it from the journal, sends latents, takes segments."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc

from cascade.v1 import common_pb2, decoder_pb2
from services.gateway.base.settings import Settings
from services.gateway.journal import Record
from services.gateway.peers.count import Count
from services.gateway.peers.made import MadePart, MadeSegment, made_part, made_segment
from services.gateway.peers.pool import Peer
from services.gateway.peers.stream import (
    StreamedSession,
    StreamLost,
    converse,
    metadata,
    read_within,
    watch_stall,
)
from services.gateway.peers.wire import field, first_field

METHOD = "/cascade.v1.DecoderService/Decode"
Request = decoder_pb2.DecodeRequest
Response = decoder_pb2.DecodeResponse
DecoderPeer = Peer[decoder_pb2.DecoderStatus]


class DecoderHost(Protocol):
    """What a session's stream to its decoder tells of all that comes."""

    async def media_started(self, init: common_pb2.MediaInit) -> None: ...
    def part_made(self, part: MadePart, epoch: int) -> None:
        """Of the block whose segment comes next; `epoch`: of the stream that brings it."""
        ...

    async def segment_made(self, segments: list[MadeSegment]) -> None:
        """One block, in every profile."""
        ...

    async def decoder_draining(self) -> None: ...


class DecoderStream:
    """One Decode stream, from Open to its end."""

    def __init__(
        self, session: StreamedSession, host: DecoderHost, peer: DecoderPeer, epoch: int, settings: Settings
    ) -> None:
        self.is_open = False
        self.on_open: Callable[[], None] = lambda: None
        self._session = session
        self._host = host
        self._peer = peer
        self._epoch = epoch
        self._settings = settings
        self._max_pending = 0
        self._next_block = session.record.next_decoder_block
        """The next to be sent."""
        self._is_closing = False
        self._ended = False

    async def run(self) -> None:
        """Until the stream ended because of `close`. Raises StreamLost."""
        open_call: Any = self._peer.channel.stream_stream(METHOD)
        call = open_call(metadata=metadata(self._settings.peer, self._session.record.session, self._epoch))
        watch = watch_stall("segment", self._settings.gateway.stall_timeout_s, self._owed)
        await converse(call, self._peer, self._read(call), self._write(call), watch)

    def close(self) -> None:
        """Ask the decoder to answer what it has been sent, then to end."""
        self._is_closing = True
        self._session.wakeup.fire()

    async def _write(self, call: Any) -> None:
        async for request in self._requests():
            await call.write(request)
        await call.done_writing()

    async def _requests(self) -> AsyncIterator[bytes]:
        """Serialized, so that latents need not be read on their way."""
        session, start = self._session, self._next_block
        warmup = warmup_blocks(session.record, start, self._peer)
        yield Request(open=self._opening(start, len(warmup))).SerializeToString()
        for block in warmup:
            yield self._block(block)
        while not self._is_closing:
            num_pending = self._next_block - session.record.next_decoder_block
            if num_pending < self._max_pending and self._next_block < session.record.next_stage_block:
                self._next_block += 1
                yield self._block(self._next_block - 1)
            else:
                await session.wakeup.wait()
        yield Request(close=Request.Close()).SerializeToString()

    def _block(self, block: int) -> bytes:
        return field(Request.BLOCK_FIELD_NUMBER, self._session.record.latents[block])

    def _opening(self, start: int, num_warmup: int) -> Request.Open:
        spec, count = self._session.spec, Count(self._session.record.num_given_blocks)
        return Request.Open(
            session=self._session.record.session,
            epoch=self._epoch,
            model=spec.model,
            width=spec.width,
            height=spec.height,
            fps=spec.fps,
            profiles=spec.profiles,
            start_block=count.at_peer(start),
            num_warmup_blocks=num_warmup,
            origin_block=count.at_peer(0),
            with_parts=True,
        )

    async def _read(self, call: Any) -> None:
        first = await read_within(call, self._settings.gateway.open_timeout_s, "answer to Open")
        opened = None if first is grpc.aio.EOF else Response.FromString(first)
        if opened is None or not opened.HasField("opened"):
            raise StreamLost(f"{self._peer.address}: the first message is not `opened`")
        self.is_open, self._max_pending = True, opened.opened.max_pending_blocks
        self.on_open()
        self._session.wakeup.fire()
        profiles: list[MadeSegment] = []
        while (message := await call.read()) is not grpc.aio.EOF:
            kind = first_field(message)
            if kind == Response.PART_FIELD_NUMBER:
                self._host.part_made(made_part(message), self._epoch)
                continue
            if kind != Response.SEGMENT_FIELD_NUMBER:
                await self._take(Response.FromString(message))
                continue
            profiles.append(made_segment(message))
            if len(profiles) == len(self._session.spec.profiles):
                await self._host.segment_made(profiles)
                profiles = []
        if not self._ended:
            raise StreamLost(f"{self._peer.address}: the stream ended without `ended`")

    async def _take(self, message: Response) -> None:
        match message.WhichOneof("message"):
            case "media_init":
                await self._host.media_started(message.media_init)
            case "draining":
                await self._host.decoder_draining()
            case "ended":
                self._ended = True

    def _owed(self) -> int | None:
        block = self._session.record.next_decoder_block
        return block if self._next_block > block else None


def warmup_blocks(record: Record, start: int, peer: DecoderPeer) -> range:
    """The blocks right before `start` whose latents are kept, at most as many as this decoder asks for."""
    wanted = peer.status.warmup_blocks if peer.status else 0
    first = start
    while first > max(-record.num_given_blocks, start - wanted) and first - 1 in record.latents:
        first -= 1
    return range(first, start)
