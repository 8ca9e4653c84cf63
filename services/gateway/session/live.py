"""The present of a session that this gateway owns: its record, its clients, and what wakes whoever waits."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from cascade.v1 import session_pb2
from cascade.v1.stage_pb2 import ModelInfo
from services.common.errors import ControllerReplaced
from services.common.interceptors.logs import bind_session
from services.common.race import may_fail
from services.common.wakeup import Wakeup
from services.gateway.journal import Acked, Change, Lease, Noted, Record
from services.gateway.placement.claims import Claim
from services.gateway.session import views
from services.gateway.session.attachment import Attachment, Part, PartsTaken, Response
from services.gateway.session.just_in_time import JustInTime, Playback
from services.gateway.session.media import as_end, as_response
from services.gateway.session.over import SessionOver
from services.gateway.session.shared import Shared


class LiveSession:
    """All that is known of one session. Whatever changes is journalled first, then told."""

    def __init__(self, shared: Shared, record: Record, lease: Lease) -> None:
        self.shared = shared
        self.record = record
        self.lease = lease
        self.asked = views.asked_of(record)
        self.spec = views.spec_of(record)
        self.state = views.state_of(record)
        """As told last."""
        self._told_paused = self.is_paused
        self.wakeup = Wakeup()
        """Fired with every change."""
        self.stage: ModelInfo | None = None
        """What the stage that it runs on can do; None: it runs on none."""
        self.last_stage: ModelInfo | None = None
        """Of the one that it ran on last at this gateway, or runs on."""
        self.claim: Claim | None = None
        """To its places, while it is in the queue."""
        self.num_had = record.num_acked
        """Blocks that the controller has, as far as it said; the last of them may yet be made again."""
        self.max_unacked = shared.settings.gateway.max_unacked_segments
        least_lead_s = shared.settings.gateway.least_lead_s
        self.just_in_time = JustInTime(self.start_s, time.monotonic(), least_lead_s)
        self._block_frames = 0
        self.alone_since = time.monotonic()
        """When the last controller left."""
        self.asking = asyncio.Lock()
        """Held from checking whether a request id is new until it is journalled."""
        self.verdicts: dict[str, asyncio.Event] = {}
        """For switches to which somebody awaits the stage's answer; by request id."""
        self.ordered_end: SessionOver | None = None
        """Somebody wants it to end."""
        self._attachments: set[Attachment] = set()
        self._parts: dict[str, list[Part]] = {}
        """Of the segment that is being made, by profile."""
        self._writing = asyncio.Lock()
        self._is_epoch_used = False

    # The journal.

    async def write(self, *changes: Change, is_urgent: bool = True) -> None:
        """Journal these changes, and what has been acknowledged meanwhile.

        `is_urgent` False: does not wait until other gateways can see it.
        """
        writing = self._write(changes, is_urgent=is_urgent)
        await (to_its_end(writing) if is_urgent else writing)

    async def _write(self, changes: tuple[Change, ...], *, is_urgent: bool) -> None:
        async with self._writing:
            acks = (Acked(self.num_acked),) if self.num_acked > self.record.num_acked else ()
            self.record = await self.shared.journal.write(self.lease, *acks, *changes, is_urgent=is_urgent)
        self.wakeup.fire()

    async def begin_epoch(self) -> None:
        """An epoch under which no stream was opened yet."""
        if self._is_epoch_used:
            await self.next_epoch()
        self._is_epoch_used = True

    async def next_epoch(self) -> int:
        """A new epoch for a new stream, which fences those of the former ones."""
        await to_its_end(self._advance())
        bind_session(self.record.session, self.lease.epoch)
        return self.lease.epoch

    async def _advance(self) -> None:
        async with self._writing:
            lease_s = self.shared.settings.gateway.lease_s
            self.lease = await self.shared.journal.advance(self.lease, lease_s)

    async def renew(self) -> None:
        """Keep other gateways from claiming it."""
        async with self._writing:
            if not self.record.end:
                await self.shared.journal.renew(self.lease, self.shared.settings.gateway.lease_s)

    async def release(self) -> None:
        """Let another gateway claim it now."""
        async with self._writing:
            await self.shared.journal.release(self.lease)

    async def set_state(self, state: "session_pb2.SessionState.ValueType") -> None:
        """Note and tell where it stands and whether it is to pause, if either is new."""
        if not self.is_news(state):
            return
        is_new, is_paused = state != self.state, self.is_paused
        self.state, self._told_paused = state, is_paused
        changed = Response.StateChanged(state=state, epoch=self.lease.epoch, paused=is_paused)
        self.publish(Response(state_changed=changed))
        if is_new and not self.record.end:
            name = session_pb2.SessionState.Name(state)
            await self.write(Noted(views.STATE, name.encode()))

    def is_news(self, state: "session_pb2.SessionState.ValueType") -> bool:
        """Whether this state, or that it is to pause or to go on, has not been told yet."""
        return state != self.state or self.is_paused != self._told_paused

    @property
    def is_paused(self) -> bool:
        """What its controller asked for last, not what is told."""
        return views.PAUSED in self.record.notes

    @property
    def queue(self) -> session_pb2.QueueStatus | None:
        """Where it stands in the queue; None: it does not wait there."""
        return self.shared.admission.status(self.claim) if self.claim else None

    # Its clients.

    @property
    def controller(self) -> Attachment | None:
        return next((attachment for attachment in self._attachments if attachment.is_controller), None)

    @property
    def num_viewers(self) -> int:
        return len(self._attachments) - (self.controller is not None)

    def attach(self, attachment: Attachment, max_unacked: int) -> None:
        """Add a client's stream; a controller takes the place of the one before."""
        if attachment.is_controller:
            if former := self.controller:
                former.close(ControllerReplaced("another stream attached as controller"))
                self._attachments.discard(former)
            self.max_unacked = max_unacked
            self.just_in_time.forget_player()
        self._attachments.add(attachment)
        self.wakeup.fire()

    def detach(self, attachment: Attachment) -> None:
        if attachment in self._attachments and attachment.is_controller:
            self.alone_since = time.monotonic()
            self.just_in_time.forget_player()
        self._attachments.discard(attachment)
        self.wakeup.fire()

    def close(self, error: BaseException | None, *, at_once: bool = True) -> None:
        """End its clients' streams; with no error, or not at once, after what they are still to be sent."""
        for attachment in self._attachments:
            attachment.close(error, at_once=at_once)

    def publish(self, event: Response) -> None:
        """Tell every client."""
        for attachment in self._attachments:
            attachment.put(event)

    @property
    def wants_ticks(self) -> bool:
        """Whether any client wants `block_made`."""
        return any(attachment.with_ticks for attachment in self._attachments)

    def publish_made(self, event: Response) -> None:
        """Tell how a block was made, where that is wanted."""
        for attachment in self._attachments:
            attachment.put_made(event)

    def publish_segment(self, block: int) -> None:
        """Let every client have the segment of this block."""
        self._parts.clear()
        for attachment in self._attachments:
            attachment.put_segment(block + 1)

    def publish_part(self, profile_id: str, part: Part) -> None:
        """Let those have it that watch this profile and want parts."""
        if part.index == 0:
            self._parts[profile_id] = []
        self._parts.setdefault(profile_id, []).append(part)
        for attachment in self._attachments:
            if self.spec.profiles[attachment.profile].id == profile_id:
                attachment.put_part(part)

    def put_parts(self, attachment: Attachment) -> None:
        """What has been made of the next segment, for a client that attaches amid it."""
        for part in self._parts.get(self.spec.profiles[attachment.profile].id, ()):
            attachment.put_part(part)

    def void_parts(self) -> None:
        """What is being made is made anew."""
        self._parts.clear()
        for attachment in self._attachments:
            attachment.void_parts()

    def publish_init(self, profile_id: str, event: Response) -> None:
        """Tell those that watch this profile."""
        for attachment in self._attachments:
            if self.spec.profiles[attachment.profile].id == profile_id:
                attachment.put(event)

    def tell_receipt(self, request_id: str) -> None:
        """Tell how far a switch is."""
        if prompt := self.record.find_prompt(request_id):
            self.publish(Response(prompt_receipt=views.receipt_of(prompt, self.record)))

    # What they ask and see.

    @property
    def num_acked(self) -> int:
        """Blocks of the record that the controller has."""
        return min(self.num_had, self.record.next_decoder_block)

    def ack(self, sequence: int, has: Playback | None = None) -> None:
        """All segments up to this one were played or stored; journalled with the next change. `has`: what the
        controller's player has."""
        self.num_had = max(self.num_had, sequence)
        if has and self.just_in_time.heard(has, sequence, time.monotonic()):
            self.shared.metrics.player_stalled()
        self.wakeup.fire()

    def start_s(self, block: int) -> float:
        """When it begins, on the session's clock."""
        self._block_frames = self._block_frames or views.model_of(self.record).block_frames
        first = views.first_frame(block, self._block_frames, self.record.num_given_blocks)
        return first / self.spec.fps if self.spec.fps else 0.0

    def end(self, over: SessionOver) -> None:
        """Let it end; the first reason given stands."""
        self.ordered_end = self.ordered_end or over
        self.wakeup.fire()

    def segment(self, sequence: int, profile: int, parts: PartsTaken) -> bytes | None:
        """A ConnectResponse, serialized, without the video where `parts` were all of it; None where it is not
        kept any more."""
        if sequence <= self.record.oldest_segment_block:
            return None
        (found,) = self.record.read(sequence - 1, 1)
        end = None
        if parts.sequence == sequence:
            end = as_end(found.data, profile, parts.num_parts, parts.num_frames)
        return end or as_response(found.data, profile)

    def view(self, *, is_brief: bool = False) -> session_pb2.Session:
        """As GetSession shows it; in brief: as lists do."""
        record = self.record.brief() if is_brief else self.record
        session = views.session_of(record, self.lease.epoch)
        session.state, session.paused = self.state, self.is_paused
        session.acked_sequence = self.num_acked
        session.has_controller, session.num_viewers = self.controller is not None, self.num_viewers
        if queue := self.queue:
            session.queue.CopyFrom(queue)
        return session


async def to_its_end(step: Coroutine[Any, Any, None]) -> None:
    """Run it even where the caller is cancelled meanwhile: a session knows of all that its journal has
    done."""
    task = asyncio.ensure_future(step)
    may_fail(task)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})  # as long as a call of the journal takes
        raise
