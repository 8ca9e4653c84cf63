"""A session that has its places: its two streams, and what they bring."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog

from cascade.v1 import common_pb2, decoder_pb2, session_pb2, stage_pb2
from services.common.race import race
from services.gateway.journal import (
    Change,
    LatentsMade,
    Noted,
    Prompt,
    PromptApplied,
    PromptRefused,
    SegmentMade,
)
from services.gateway.journal.lora_sets import kept_loras
from services.gateway.peers.decoder_stream import DecoderPeer, DecoderStream
from services.gateway.peers.made import MadeBlock, MadePart, MadeSegment
from services.gateway.peers.reports import Kind
from services.gateway.peers.stage_stream import StagePeer, StageStream
from services.gateway.peers.stream import NotSuitable, StreamLost
from services.gateway.placement.claims import Places
from services.gateway.placement.ledger import Place
from services.gateway.placement.needs import stage_fits
from services.gateway.placement.running import RunningSessions
from services.gateway.session import views
from services.gateway.session.attachment import Part, Response
from services.gateway.session.block_made import block_made
from services.gateway.session.keeper import Keeper
from services.gateway.session.live import LiveSession
from services.gateway.session.media import pack, part_of, segment_of
from services.gateway.session.over import SessionOver, or_over
from services.gateway.session.recovery import Recoveries
from services.gateway.session.session_needs import lacks_of, lora_files_noted, needs_of, running_of

log = structlog.get_logger(__name__)
LOOKAHEAD = 3
"""Blocks beyond the last that a stage may make at a time, so that a pause takes effect soon."""
CLOCK_S = 0.001
"""A timer may go off that much early."""


class Production:
    """Host of the streams to stage and decoder (see their Protocols); `run` makes video."""

    def __init__(self, live: LiveSession, recoveries: Recoveries, places: Places) -> None:
        self._live = live
        self._recoveries = recoveries
        self._opened = set[str]()
        self._lacks = set[str]()
        self._alarm: asyncio.TimerHandle | None = None
        """Wakes the stage's stream when another block is to be asked for."""
        self._asked_end = 0
        """Blocks below it are asked for."""
        self.has_yielded = False
        """Another session had what this one waited for, and needed what it had."""
        self._stage: Keeper[stage_pb2.StageStatus] = Keeper(
            places.stage,
            find=self._find_stage,
            open_stream=self._open_stage,
            lost=recoveries.stage_lost,
            progress=lambda: live.record.next_stage_block,
            is_complete=lambda: live.record.next_stage_block == self._end_block(),
        )
        self._decoder: Keeper[decoder_pb2.DecoderStatus] = Keeper(
            places.decoder,
            find=self._find_decoder,
            open_stream=self._open_decoder,
            lost=recoveries.decoder_lost,
            progress=lambda: live.record.next_decoder_block,
            is_complete=lambda: live.record.next_decoder_block == self._end_block(),
        )

    async def run(self) -> None:
        """Until the places are given away during a pause, or to another session. Raises SessionOver,
        StreamLost."""
        try:
            self._tell_needs()
            await self._live.begin_epoch()
            # The end comes first: where it coincides with a loss, nothing was lost.
            await race(self._complete(), self._make(), self._decode(), self._give_away(), self._yield())
        finally:
            if self._alarm:
                self._alarm.cancel()
            self._live.stage = None
            self._stage.place.release()
            self._decoder.place.release()

    @property
    def is_open(self) -> bool:
        """Whether video can be made now."""
        return self._stage.is_open and self._decoder.is_open

    @property
    def addresses(self) -> tuple[str, str]:
        """Of its stage and its decoder; empty: it has none."""
        return self._stage.address, self._decoder.address

    async def _make(self) -> None:
        """Run the stage's stream; when all blocks are made the rest goes on without it."""
        if not self._is_made():
            await self._stage.run()
        self._stage.is_done = True
        self._tell_needs()
        self._stage.place.release()
        self._live.wakeup.fire()
        await asyncio.Event().wait()

    async def _decode(self) -> None:
        """Run the decoder's stream, which the last segment ends; clients have yet to acknowledge it."""
        await self._decoder.run()
        self._tell_needs()
        await asyncio.Event().wait()

    async def _complete(self) -> None:
        """End when all blocks are made and acknowledged."""
        live = self._live
        await live.wakeup.until(lambda: self._is_made() and live.num_acked >= live.record.next_stage_block)
        is_full = self._live.record.next_stage_block == self._end_block()
        exhausted, complete = session_pb2.END_REASON_POSITIONS_EXHAUSTED, session_pb2.END_REASON_COMPLETE
        raise SessionOver(complete if is_full else exhausted)

    def _is_made(self) -> bool:
        return self._stage.is_done or self._live.record.next_stage_block == self._end_block()

    def _end_block(self) -> int | None:
        """One beyond the last, where the session has a length of its own."""
        return self._live.spec.num_blocks if self._live.spec.HasField("num_blocks") else None

    async def _give_away(self) -> None:
        """While paused, offer the places to whoever needs them; returns when they are taken."""
        while True:
            await self._live.wakeup.until(lambda: self._live.is_paused)
            places = self._places
            for place in places:
                place.offer()
            await race(*(place.revoked.wait() for place in places), self._resumed(), self._replaced(places))
            kept = [place.withdraw() for place in places]
            if not all(kept):
                log.info("places given away during a pause")
                return

    async def _yield(self) -> None:
        await self._running.yield_asked(self._live.record.session)
        log.info("places yielded", lacks=sorted(self._lacks))
        self.has_yielded = True

    async def _resumed(self) -> None:
        await self._live.wakeup.until(lambda: not self._live.is_paused)

    async def _replaced(self, places: list[Place[Any]]) -> None:
        """Until it has other places than these, after a loss."""
        await self._live.wakeup.until(lambda: self._places != places)

    @property
    def _places(self) -> list[Place[Any]]:
        return [self._stage.place, self._decoder.place]

    # Host of the streams.

    def credit_end(self) -> int:
        """Blocks below this index may be made now."""
        made = self._live.record.next_stage_block
        if self._live.is_paused:
            return made
        end, allowed = self._end_block(), self._live.num_had + self._live.max_unacked
        limit = min(allowed, made + LOOKAHEAD, *(() if end is None else (end,)))
        # What was measured is no word on what comes after a loss.
        due = limit if limit <= made or self._recoveries.loss else self._due_end(made, limit)
        if self._stage.is_open:  # else the opening asks for them
            self._note_asked(max(made, self._asked_end), due)
        self._asked_end = max(due, self._asked_end)
        return due

    def needed_in_s(self, block: int) -> float | None:
        """How long from now until its latents are needed; None: unknown."""
        return self._live.just_in_time.needed_in_s(block, time.monotonic())

    def _due_end(self, made: int, limit: int) -> int:
        """Of the blocks that credit allows, those that it is time for; asked again when it is for more."""
        planner, now = self._live.just_in_time, time.monotonic()
        end = planner.end(made, limit, now)
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if end < limit:
            wait_s = planner.wait_s(end, now) + CLOCK_S
            self._alarm = asyncio.get_running_loop().call_later(wait_s, self._live.wakeup.fire)
        return end

    def _note_asked(self, first: int, end: int) -> None:
        planner, now = self._live.just_in_time, time.monotonic()
        for block in range(first, end):
            planner.making.asked(block, now)
            if (lead_s := planner.lead_s(now)) is not None:
                self._live.shared.metrics.lead.observe(lead_s)

    async def stage_opened(self, opened: stage_pb2.GenerateResponse.Opened) -> None:
        address, revision = self._stage.place.peer.address, needs_of(self._live).revision
        if revision not in ("", opened.revision):  # another process, since it was last heard of
            raise StreamLost(f"{address}: has revision {opened.revision}, the session {revision}")
        self._note_asked(self._live.record.next_stage_block, self._asked_end)
        notes = lora_files_noted(self._live.record, self._live.stage)
        words = session_pb2.Session(unknown_words=opened.unknown_words).SerializeToString()
        if words != self._live.record.notes.get(views.UNKNOWN_WORDS, b""):
            notes.append(Noted(views.UNKNOWN_WORDS, words))
        if notes:
            await self._live.write(*notes)
        for prompt in self._live.record.prompts:
            block = prompt.at_block or 0
            is_due = block <= self._live.record.next_stage_block and prompt.first_block_touched is None
            if prompt.is_created and is_due:  # it rules from the first block on, so no receipt comes
                applied_ms = self._live.shared.now_ms()
                num_mixed = prompt.transition.num_blocks if prompt.transition else 0
                last = block + num_mixed - 1 if num_mixed else None
                applied = PromptApplied(
                    prompt.request_id, block, block + num_mixed, applied_ms, last_block_mixed=last
                )
                await self._live.write(applied, shown(prompt))
                self._live.tell_receipt(prompt.request_id)

    async def block_made(self, block: MadeBlock) -> None:
        self._live.just_in_time.making.made(block.said.block.index, time.monotonic())
        self._live.shared.metrics.block_made(block.said)
        self._live.shared.traces.made(self._live.record.session, block.said)
        await self._live.write(LatentsMade(block.said.block.index, block.latents), is_urgent=False)
        self._tell_made(block.said)

    def _tell_made(self, block: stage_pb2.GenerateResponse.Block) -> None:
        """Before its segment can come."""
        if not self._live.wants_ticks:
            return
        lead_s = self._live.just_in_time.lead_s(time.monotonic())
        if made := block_made(block, self._live.lease.epoch, self._stage.place.peer, lead_s):
            self._live.publish_made(made)

    async def prompt_applied(
        self, request_id: str, applied: stage_pb2.GenerateResponse.PromptApplied
    ) -> None:
        prompt = self._live.record.find_prompt(request_id)
        if prompt is None or prompt.first_block_touched is not None:
            return  # a stage that was opened after it took effect has it in its timeline
        touched, full = applied.first_block_touched, applied.first_block_full
        words = tuple(applied.unknown_words)
        loras = kept_loras(applied.loras.loras) if applied.HasField("loras") else None
        applied_ms = self._live.shared.now_ms()
        last = applied.last_block_mixed if applied.HasField("last_block_mixed") else None
        change = PromptApplied(request_id, touched, full, applied_ms, words, loras, last)
        await self._live.write(change, shown(prompt))
        if done := self._live.record.find_prompt(request_id):
            self._live.shared.metrics.prompt_applied(done)
        self._live.tell_receipt(request_id)

    async def switch_answered(self, request_id: str, refusal: bytes) -> None:
        if refusal:
            await self._live.write(PromptRefused(request_id, refusal))
            self._live.tell_receipt(request_id)
        if request_id in self._live.verdicts:
            self._live.verdicts[request_id].set()

    async def media_started(self, init: common_pb2.MediaInit) -> None:
        self._live.just_in_time.making.ready(time.monotonic())
        name, value = views.INIT + init.profile_id, init.SerializeToString()
        if self._live.record.notes.get(name) != value:
            await self._live.write(Noted(name, value))
            self._live.publish_init(init.profile_id, Response(media_init=init))

    def part_made(self, part: MadePart, epoch: int) -> None:
        controller = self._live.controller
        if part.said.index == 0 and controller and controller.with_parts:
            self._live.just_in_time.making.begun(part.said.media.block, time.monotonic())
        media = part.said.media
        made = Part(media.block + 1, epoch, part.said.index, media.num_frames, part_of(part, epoch))
        self._live.publish_part(media.profile_id, made)

    async def segment_made(self, segments: list[MadeSegment]) -> None:
        shared, epoch = self._live.shared, self._live.lease.epoch
        now_ms, block = shared.now_ms(), segments[0].said.media.block
        data = pack(segment_of(segment, epoch, now_ms) for segment in segments)
        changes: list[Change] = [SegmentMade(block, data)]
        is_first = not self._live.record.notes.get(views.STARTED)
        if is_first:
            changes.append(Noted(views.STARTED, str(now_ms).encode()))
        await self._live.write(*changes, is_urgent=False)
        self._recoveries.segment_made(block)
        self._live.publish_segment(block)
        self._live.just_in_time.making.sent(block, now := time.monotonic())
        if (ahead_s := self._live.just_in_time.ahead_s(block + 1, now)) is not None:
            shared.metrics.made_ahead.observe(ahead_s)
        shared.metrics.segment_made(self._live.record, segments, now_ms, is_first=is_first)
        said = [segment.said for segment in segments]
        shared.traces.delivered(self._live.record.session, epoch, said)

    async def stage_draining(self) -> None:
        self._stage.drain()

    async def decoder_draining(self) -> None:
        self._decoder.drain()

    # Places and streams.

    async def _open_stage(self, peer: StagePeer) -> StageStream:
        """Raises NotSuitable."""
        status = peer.status
        if status is None or not stage_fits(status, needs_of(self._live)):
            raise NotSuitable(f"{peer.address}: is not what the session needs")
        self._live.stage = self._live.last_stage = status.model
        self._live.just_in_time.making.forget_asked()
        self._asked_end = self._live.record.next_stage_block
        return StageStream(self._live, self, peer, await self._epoch_for("stage"), self._live.shared.settings)

    async def _open_decoder(self, peer: DecoderPeer) -> DecoderStream:
        self._live.void_parts()
        return DecoderStream(
            self._live, self, peer, await self._epoch_for("decoder"), self._live.shared.settings
        )

    async def _epoch_for(self, what: str) -> int:
        """The first streams share one; each that replaces another has the next."""
        is_first = what not in self._opened
        self._opened.add(what)
        return self._live.lease.epoch if is_first else await self._live.next_epoch()

    async def _find_stage(self, avoid: Collection[str]) -> Place[stage_pb2.StageStatus]:
        if not avoid:
            self._live.stage = None
        async with self._finding("stage", avoid):
            return await self._live.shared.admission.stage(needs_of(self._live), avoid)

    async def _find_decoder(self, avoid: Collection[str]) -> Place[decoder_pb2.DecoderStatus]:
        async with self._finding("decoder", avoid):
            return await self._live.shared.admission.decoder(needs_of(self._live), avoid)

    @asynccontextmanager
    async def _finding(self, what: Kind, avoid: Collection[str]) -> AsyncIterator[None]:
        """Bounded where the session stands still meanwhile. Raises SessionOver."""
        if avoid:  # it moves, and goes on until there is a place
            yield
            return
        timeout_s = self._live.shared.settings.gateway.recovery_timeout_s
        why = partial(lacks_of, self._live) if what == "stage" else str
        self._lacks.add(what)
        self._tell_needs()
        try:
            async with or_over(timeout_s, what, why):
                yield
        finally:
            self._lacks.discard(what)
            self._tell_needs()

    @property
    def _running(self) -> RunningSessions:
        return self._live.shared.admission.running

    def _tell_needs(self) -> None:
        """To all gateways, so that nobody from a queue has the places that it needs."""
        done = {"stage": self._stage.is_done, "decoder": self._decoder.is_done}
        needs = frozenset(kind for kind, is_done in done.items() if not is_done)
        self._running.put(running_of(self._live, needs, needs & self._lacks))


def shown(prompt: Prompt) -> Noted:
    """Which prompt rules now, for lists."""
    return Noted(views.PROMPT, prompt.prompt[: views.MAX_SHOWN].encode())
