"""One Decode call: takes blocks in order, gives segments in order, ends as the contract says."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

from cascade.v1 import common_pb2, decoder_pb2
from cascade_core.errors import SessionLost
from services.common.durations import to_duration
from services.common.errors import UnsupportedMedia
from services.common.validation import InvalidField
from services.decoder.admission import Open, Plan
from services.decoder.dispatcher import DecoderSession, Dispatcher
from services.decoder.media import init_of, parts_of, segments_of
from services.decoder.messages import (
    Answer,
    BlockEncoded,
    BlockWarmed,
    DecodeBlock,
    PartEncoded,
    SessionFailed,
    SessionOpened,
    SessionRefused,
)
from services.decoder.order import Order

Request = decoder_pb2.DecodeRequest
Response = decoder_pb2.DecodeResponse


class DecodeStream:
    """The session of one Open. Three things act on it: the client's messages, the worker's answers, the
    server's wish to end it; `responses` is what the client gets of all that."""

    def __init__(
        self, opening: Open, plan: Plan, max_pending_blocks: int, drain_left_s: Callable[[], float]
    ) -> None:
        self.session = opening.session
        self._opening = opening
        self._plan = plan
        self._max_pending = max_pending_blocks
        self._drain_left_s = drain_left_s
        self._dispatcher: Dispatcher
        self._handle: DecoderSession | None = None
        self._outbox: deque[BlockEncoded | Response] = deque()
        """Bounded by `max_pending_blocks`, their parts and the few messages around the segments."""
        self._wakeup = asyncio.Event()
        self._room = asyncio.Event()
        self._error: Exception | None = None
        self._inits: tuple[tuple[str, bytes], ...] = ()
        self._order = Order(opening, plan.latent_shape, max_pending_blocks)
        self._num_warming = 0
        self._num_to_warm = opening.num_warmup_blocks
        self._num_answered = 0
        self._is_open = False
        self._is_draining = False

    def start(self, dispatcher: Dispatcher) -> None:
        """Take a place at the worker; raises NotReady or OutOfCapacity. `end` has to follow."""
        self._dispatcher = dispatcher
        self._handle = dispatcher.open(self._plan.profiles, self._plan.places, self._deliver)

    def end(self) -> None:
        """Give the place back, if it has one; for good."""
        if self._handle:
            self._dispatcher.close(self._handle)
            self._handle = None

    @property
    def places(self) -> int:
        """Taken at the worker now."""
        return self._handle.places if self._handle else 0

    def fail(self, error: Exception) -> None:
        """End with an error, at once: what is not sent yet is not worth sending any more."""
        if self._error is None:
            self._error = error
            self._outbox.clear()
            self.end()
            self._wakeup.set()

    def announce_drain(self) -> None:
        """Tell the client once, after `opened`."""
        self._is_draining = True
        if self._is_open:
            left = to_duration(self._drain_left_s())
            self._put(Response(draining=Response.Draining(time_left=left)))

    async def responses(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Response, None]:
        """All that the client gets; raises what ends the stream."""
        reader = asyncio.create_task(self._read(requests), name="decode-requests")
        try:
            while not self._is_over():
                await self._wakeup.wait()
                self._wakeup.clear()
                while self._outbox:
                    for response in self._unfold(self._outbox.popleft()):
                        yield response
                if self._error:
                    raise self._error
            yield Response(ended=Response.Ended(num_blocks=self._num_answered))
        finally:
            reader.cancel()
            await asyncio.wait({reader})

    def _is_over(self) -> bool:
        return self._is_open and self._order.is_closed and not self._order.num_pending and not self._outbox

    def _unfold(self, item: BlockEncoded | Response) -> Iterator[Response]:
        """The messages of one item. A block counts as answered before its last segment leaves, since the
        client may send the next block before this side hears that it left."""
        if isinstance(item, Response):
            yield item
            return
        *others, last = segments_of(item, self._opening, self._plan.fps)
        yield from others
        self._order.num_pending -= 1
        self._num_answered += 1
        yield last

    def _put(self, item: BlockEncoded | Response) -> None:
        self._outbox.append(item)
        self._wakeup.set()

    def _deliver(self, answer: Answer | Exception) -> None:
        match answer:
            case PartEncoded():
                if self._opening.with_parts:
                    for part in parts_of(answer, self._opening, self._plan.fps):
                        self._put(part)
            case BlockEncoded():
                self._put(answer)
            case SessionOpened(inits=inits):
                self._inits = inits
                self._open_if_warm()
            case BlockWarmed():
                self._num_to_warm -= 1
                self._num_warming -= 1
                self._room.set()
                self._open_if_warm()
            case SessionRefused(is_media=True):
                self.fail(UnsupportedMedia(answer.reason, field=answer.field))
            case SessionRefused():
                self.fail(InvalidField([(answer.field, answer.reason)]))
            case SessionFailed():
                self.fail(SessionLost(answer.reason))
            case Exception():
                self.fail(answer)

    def _open_if_warm(self) -> None:
        if self._num_to_warm or self._is_open:
            return
        self._is_open = True
        opened = Response.Opened(epoch=self._opening.epoch, max_pending_blocks=self._max_pending)
        self._put(Response(opened=opened))
        for profile, (mime_type, data) in zip(self._opening.profiles, self._inits, strict=True):
            self._put(Response(media_init=init_of(profile, mime_type, data)))
        if self._is_draining:
            self.announce_drain()

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        try:
            async for request in requests:
                block = self._order.take(request)
                if block is not None:
                    await self._pass_on(block)
                self._wakeup.set()
            if not self._order.is_closed:
                self._order.close()
            self._wakeup.set()
        except Exception as error:
            self.fail(error)

    async def _pass_on(self, block: common_pb2.LatentBlock) -> None:
        is_warmup = self._order.is_warmup(block)
        if is_warmup:
            await self._wait_for_room()
        if self._handle:
            self._dispatcher.submit(self._handle, self._job(self._handle, block, is_warmup))

    def _job(self, handle: DecoderSession, block: common_pb2.LatentBlock, is_warmup: bool) -> DecodeBlock:
        is_float32 = block.latents.dtype == common_pb2.DATA_TYPE_FLOAT32
        return DecodeBlock(
            session=handle.id,
            block=block.index,
            dtype="float32" if is_float32 else "bfloat16",
            shape=self._plan.latent_shape,
            data=block.latents.data,
            is_warmup=is_warmup,
            arrived_s=time.monotonic(),
            origin=self._opening.origin_block,
        )

    async def _wait_for_room(self) -> None:
        """Warm-up blocks are not answered, so only reading slowly bounds what waits here."""
        while self._num_warming >= self._max_pending:
            self._room.clear()
            await self._room.wait()
        self._num_warming += 1
