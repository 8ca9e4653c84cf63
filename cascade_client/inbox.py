"""Turns a gateway's messages into events: drops what is known, notices what is missing."""

import asyncio

from cascade.v1 import session_pb2
from cascade_client import events
from cascade_client.errors import CascadeClientError, from_status
from cascade_client.events import (
    Ended,
    Event,
    Part,
    QueueChanged,
    Reconnected,
    Segment,
    Skipped,
    StateChanged,
)
from cascade_client.outbox import Outbox
from cascade_client.resume import Position

CONTROLLER_EVENTS = 256
"""Room for all the segments that credit allows, so that a consumer may wait for a receipt meanwhile."""
VIEWER_EVENTS = 16
MAX_RECEIPTS = 256


class Finished(Exception):
    """No events come any more; `error` None: the session has ended."""

    def __init__(self, error: CascadeClientError | None) -> None:
        self.error = error


class Inbox:
    """A bounded queue of events. While it is full nothing is read, so the gateway waits too."""

    def __init__(self, outbox: Outbox, after_sequence: int, *, is_viewer: bool) -> None:
        self.position = Position(last=after_sequence)
        self.paused = False
        self.state = ""
        self._is_viewer = is_viewer
        self._outbox = outbox
        self._parts: list[Part] = []
        """Of the segment that comes next."""
        self._init: session_pb2.ConnectResponse | None = None
        self._receipts: dict[tuple[str, int | None], str] = {}
        self._queue: asyncio.Queue[Event | Finished] = asyncio.Queue(
            VIEWER_EVENTS if is_viewer else CONTROLLER_EVENTS
        )
        self._finished: Finished | None = None

    async def next(self) -> Event:
        """Raises Finished."""
        if self._finished:
            raise self._finished
        item = await self._queue.get()
        if isinstance(item, Finished):
            self._finished = item
            raise item
        return item

    async def finish(self, error: CascadeClientError | None) -> None:
        await self._queue.put(Finished(error))

    async def attach(
        self, message: session_pb2.ConnectResponse.Attached, reconnected: Reconnected | None
    ) -> None:
        """A stream was attached: the first (None), or one that follows another."""
        attached = events.attached(message)
        missed = self.position.attach(attached.next_sequence, may_skip=self._is_viewer)
        await self._queue.put(reconnected or attached)
        await self._catch_up(attached, is_first=reconnected is None)
        if missed:
            await self._queue.put(Skipped(missed, attached.next_sequence))

    async def _catch_up(self, attached: events.Attached, *, is_first: bool) -> None:
        """What happened while no stream was attached is in `attached` alone."""
        session = attached.session
        state = StateChanged(session.state, session.message.epoch, session.message.paused)
        if not is_first and state.state != self.state:
            await self._queue.put(state)
        self._note_state(state)
        if not is_first:
            known = {receipt.request_id for receipt in attached.receipts}
            self._outbox.remind(known, paused=session.message.paused)
        for receipt in attached.receipts:
            if self._note_receipt(receipt) and not is_first:
                await self._queue.put(receipt)

    def _note_state(self, event: StateChanged) -> None:
        self.state, self.paused = event.state, event.paused
        self._outbox.answer_paused(event.paused)

    def _note_receipt(self, receipt: events.PromptReceipt) -> bool:
        """Whether it says something new."""
        self._outbox.answer(receipt.request_id, receipt)
        key = (receipt.request_id, None if receipt.request_id else receipt.first_block_touched)
        is_new = self._receipts.get(key) != receipt.state
        self._receipts[key] = receipt.state
        if len(self._receipts) > MAX_RECEIPTS:
            del self._receipts[next(iter(self._receipts))]
        return is_new

    async def take(self, message: session_pb2.ConnectResponse) -> None:
        """Raises SequenceGap."""
        event = self._event(message)
        if event is None or (isinstance(event, QueueChanged) and self._queue.full()):
            return  # a newer place in the queue follows within a second
        await self._queue.put(event)

    def _event(self, message: session_pb2.ConnectResponse) -> Event | None:
        match message.WhichOneof("message"):
            case "segment":
                return self._segment(message.segment)
            case "part":
                return self._part(events.part(message.part))
            case "media_init":
                return self._media_init(message)
            case "prompt_receipt":
                receipt = events.receipt(message.prompt_receipt)
                if receipt.request_id and receipt.state == "ACCEPTED":
                    self._outbox.heard_accepted(receipt.request_id)
                return receipt if self._note_receipt(receipt) else None
            case "skipped":
                self.position.skip(message.skipped.next_sequence)
                return Skipped(message.skipped.first_sequence, message.skipped.next_sequence)
            case "request_failed":
                failed = message.request_failed
                self._outbox.fail(failed.request_id, from_status(failed.status))
                return None
            case "ended":
                return self._ended(events.ended(message.ended))
        event = events.notice(message)
        if isinstance(event, StateChanged):
            self._note_state(event)
            self._outbox.heard_paused(event.paused)
        return event

    def _segment(self, message: session_pb2.ConnectResponse.Segment) -> Segment | None:
        if not self.position.accept(message.sequence):
            return None
        in_parts = message.num_parts > 0
        data = b"".join(part.data for part in self._parts) if in_parts else message.media.data
        return events.segment(message, data)

    def _part(self, part: Part) -> Part | None:
        """None: its segment is known."""
        if part.sequence <= self.position.last:
            return None
        self._parts = [*(self._parts if part.index else ()), part]
        return part

    def _media_init(self, message: session_pb2.ConnectResponse) -> events.MediaInit | None:
        if message == self._init:
            return None
        self._init = message
        init = message.media_init
        return events.MediaInit(init.profile_id, init.mime_type, init.data)

    def _ended(self, event: Ended) -> Ended:
        self._outbox.answer_end(event)
        return event

    async def close_with(self, event: Ended) -> None:
        """The session turned out to have ended while no stream was attached."""
        await self._queue.put(self._ended(event))
