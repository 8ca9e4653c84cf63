"""DecoderService on the wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from cascade.v1 import decoder_pb2, decoder_pb2_grpc
from cascade_core.config import ModelCard
from services.common.board import Board
from services.common.drain import MAX_REASON, OVER, Drain
from services.common.durations import to_seconds
from services.common.epochs import Epochs
from services.common.errors import Draining, NotReady, UnsupportedMedia
from services.common.interceptors.deadlines import limited
from services.common.interceptors.logs import bind_session
from services.common.streams import next_message
from services.common.turns import Turns
from services.decoder.admission import Open, check_encoders, check_model, make_plan
from services.decoder.decode_stream import DecodeStream
from services.decoder.dispatcher import Dispatcher, State
from services.decoder.encoding import Encoding, make_task
from services.decoder.report import Reporter, change_of
from services.decoder.settings import DecoderSettings

DEFAULT_INTERVAL_S = 1.0
DEFAULT_DRAIN_S = 300.0
"""Both as the contract says."""
Request = decoder_pb2.DecodeRequest
Response = decoder_pb2.DecodeResponse
EncodeRequest = decoder_pb2.EncodeRequest
EncodeResponse = decoder_pb2.EncodeResponse
WatchRequest = decoder_pb2.DecoderServiceWatchStatusRequest
WatchResponse = decoder_pb2.DecoderServiceWatchStatusResponse
DrainRequest = decoder_pb2.DecoderServiceDrainRequest
DrainResponse = decoder_pb2.DecoderServiceDrainResponse


class DecoderServicer(decoder_pb2_grpc.DecoderServiceServicer):
    """Streams over one dispatcher."""

    def __init__(
        self, card: ModelCard, settings: DecoderSettings, dispatcher: Dispatcher, reporter: Reporter
    ) -> None:
        self._card = card
        self._settings = settings
        self._dispatcher = dispatcher
        self._reporter = reporter
        self._epochs = Epochs()
        self._streams: set[DecodeStream] = set()
        self._turns = Turns(
            "pictures and clips",
            settings.max_waiting_encodings,
            at_once=settings.max_encodings,
            patience_s=settings.encode_deadline_s,
        )
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._drain = Drain(self._announce_drain, self._expire_drain)
        self.board = Board(self._report, change_of)

    async def Decode(self, requests: AsyncIterator[Request], context: Any) -> AsyncIterator[Response]:
        opening = (await next_message(requests, "open")).open
        bind_session(opening.session, opening.epoch)
        stream = self._admit(opening)
        async with self._epochs.hold(opening.session, opening.epoch, stream.fail):
            try:
                self._join(stream)
                async with aclosing(stream.responses(requests)) as responses:
                    async for response in responses:
                        yield response
            finally:
                self._leave(stream)

    async def Encode(self, request: EncodeRequest, context: Any) -> None:  # type: ignore[override]
        """Writes by itself: its deadline bounds that, too."""
        bind_session(request.session)
        if not request.width:
            request.width, request.height = self._card.video.width, self._card.video.height
        self._admit_file(request)
        encoding = Encoding(make_task(request, self._card, self._settings), self._card, self._dispatcher)
        async with (
            limited("Encode", self._settings.encode_deadline_s),
            self._turns.of(request.tenant),
            aclosing(encoding.blocks()) as blocks,
        ):
            async for block in blocks:
                await context.write(EncodeResponse(block=block, first_frame=encoding.is_first_frame))

    async def WatchStatus(self, request: WatchRequest, context: Any) -> AsyncIterator[WatchResponse]:
        given = request.HasField("interval")
        interval_s = to_seconds(request.interval) if given else DEFAULT_INTERVAL_S
        async with aclosing(self.board.watch(interval_s)) as reports:
            async for status in reports:
                yield WatchResponse(status=status)

    async def Drain(self, request: DrainRequest, context: Any) -> DrainResponse:
        self._drain.answer(request, DEFAULT_DRAIN_S)
        self.board.note_change()
        return DrainResponse(drain=self._report().drain)

    def quarantine(self, reason: str) -> None:
        """Have the sessions move away from broken hardware."""
        self._drain.begin(DEFAULT_DRAIN_S, f"quarantined: {reason}"[:MAX_REASON])
        self.board.note_change()

    async def drain(self, deadline_s: float) -> None:
        """The process ends: as `Drain`, then until the last stream is gone; watches end with it."""
        self._drain.begin(deadline_s, "the process is asked to end")
        self.board.note_change()
        try:
            await self._is_empty.wait()
        finally:
            self.board.close()

    def close(self) -> None:
        self._drain.close()

    def state(self) -> State:
        """As WatchStatus tells it; from any thread."""
        return self._reporter.state(self._drain)

    def _admit(self, opening: Open) -> DecodeStream:
        """A stream that can start; raises what keeps it from that, with nothing changed."""
        self._drain.require_idle()
        self._epochs.check(opening.session, opening.epoch)
        plan = make_plan(opening, self._card, self._settings)
        former = [stream for stream in self._streams if stream.session == opening.session]
        if complaint := self._reporter.complaint():
            raise NotReady(complaint)
        self._dispatcher.check(plan.places, sum(stream.places for stream in former))
        assert self._dispatcher.ready
        check_encoders(opening, self._dispatcher.ready.has_nvenc)
        return DecodeStream(opening, plan, self._settings.max_pending_blocks, lambda: self._drain.time_left_s)

    def _admit_file(self, request: EncodeRequest) -> None:
        """Raise what keeps it from being encoded here."""
        self._drain.require_idle()
        check_model(request, self._card, self._settings, "")
        if complaint := self._reporter.complaint():
            raise NotReady(complaint)
        assert self._dispatcher.ready
        if not self._dispatcher.ready.can_encode:
            raise UnsupportedMedia("this decoder makes no latents of pictures", field="model")

    def _join(self, stream: DecodeStream) -> None:
        stream.start(self._dispatcher)
        self._streams.add(stream)
        self._is_empty.clear()
        self.board.note_change()

    def _leave(self, stream: DecodeStream) -> None:
        stream.end()
        self._streams.discard(stream)
        if not self._streams:
            self._is_empty.set()
        self.board.note_change()

    def _announce_drain(self) -> None:
        for stream in self._streams:
            stream.announce_drain()

    def _expire_drain(self) -> None:
        for stream in self._streams:
            stream.fail(Draining(OVER))

    def _report(self) -> decoder_pb2.DecoderStatus:
        return self._reporter.status(self._drain, len(self._streams))
