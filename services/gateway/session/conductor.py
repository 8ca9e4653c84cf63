"""The life of one session that this gateway owns: it waits, plays, pauses, is rebuilt, and ends.

The journal's record is all its state. The stage's stream writes latents into it, the decoder's reads them
and writes segments, the clients' streams read those: each side goes on while another is lost.
"""

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

import structlog

from cascade.v1 import session_pb2
from cascade.v1.stage_pb2 import ModelInfo
from services.common.errors import NotReady, QueueFull, QuotaExceeded
from services.common.interceptors.logs import bind_session
from services.common.race import race
from services.common.status import describe
from services.gateway.journal import Ended, Lease, Limits, LimitsSet, Noted, Record
from services.gateway.journal.errors import LeaseLost, NoSuchSession
from services.gateway.peers.stream import StreamLost
from services.gateway.placement.claims import Claim, Places
from services.gateway.session import views
from services.gateway.session.attachment import Response
from services.gateway.session.live import LiveSession
from services.gateway.session.over import SessionOver, failed, or_over
from services.gateway.session.production import Production
from services.gateway.session.recovery import Recoveries
from services.gateway.session.session_needs import lacks_of, needs_of, running_of
from services.gateway.session.shared import Shared

log = structlog.get_logger(__name__)
NOT_OURS = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
"""Of a stage or decoder: it refuses this gateway, not the session's client."""
QUEUE_LOOK_S = 5.0
"""How often a session in the queue looks whether what it lacks is still the same."""
QUEUE_NEWS_S = 1.0
"""A client hears of its place in the queue at most that often."""
QUEUE_RETRY_S = 0.1


class Conductor:
    """Runs a LiveSession from wherever its record stands to its end."""

    def __init__(self, shared: Shared, record: Record, lease: Lease, *, is_taken_over: bool = False) -> None:
        self.live = LiveSession(shared, record, lease)
        self._shared = shared
        self._recoveries = Recoveries(self.live, is_taken_over=is_taken_over)
        self._production: Production | None = None
        self._is_taken_over = is_taken_over
        self._has_yielded = False
        """It gave up its places for another session, and is to have others ahead of any queue."""

    @property
    def addresses(self) -> tuple[str, str]:
        """Of its stage and its decoder; empty: it has none."""
        return self._production.addresses if self._production else ("", "")

    async def run(self) -> None:
        """Until it is over. Raises the journal's LeaseLost and NoSuchSession where another gateway has it."""
        structlog.contextvars.clear_contextvars()  # those of the call that created it
        bind_session(self.live.record.session, self.live.lease.epoch)
        running, session = self._shared.admission.running, self.live.record.session
        if self._is_taken_over and (self._is_made or not self._recoveries.is_urgent):
            running.drop(session)  # its former gateway may have spoken of it
        try:
            over = await self._until_over()
            running.drop(session)
            await self._end(over)
        finally:
            running.forget(session)

    async def _until_over(self) -> SessionOver:
        try:
            await race(self._obey(), self._live(), self._tell_state())
        except SessionOver as over:
            return over
        except (LeaseLost, NoSuchSession):
            raise
        except StreamLost as lost:
            if lost.error is None or lost.error.code.name in NOT_OURS:
                return failed(NotReady(str(lost)))
            return failed(lost.error)
        except Exception as error:
            log.exception("session failed")
            return failed(error)
        raise AssertionError("a session lives until it is over")

    async def _live(self) -> None:
        if self._recoveries.loss and self.live.is_paused:
            await self._wait_for(self._resumed())
        while not self._is_made:
            places = await self._places()
            self.live.alone_since = time.monotonic()
            await self._wait_for(self._play(places))
            await self._wait_for(self._resumed())
        await self._wait_for(self._acknowledged())

    async def _wait_for(self, step: Coroutine[Any, Any, None]) -> None:
        """Raises SessionOver where the session is left alone too long, or lasts too long."""
        await race(step, self._leave_idle(), self._leave_late())

    @property
    def _is_made(self) -> bool:
        """All segments are in the record: no machine is needed any more, whoever takes it over."""
        spec = self.live.spec
        return spec.HasField("num_blocks") and self.live.record.next_decoder_block == spec.num_blocks

    async def _acknowledged(self) -> None:
        """Raises SessionOver when its client has everything."""
        live = self.live
        await live.wakeup.until(lambda: live.num_acked >= live.record.next_decoder_block)
        raise SessionOver(session_pb2.END_REASON_COMPLETE)

    async def _play(self, places: Places) -> None:
        """Make video until the places are given away: during a pause, or to a session that has what this one
        lacks."""
        self._production = Production(self.live, self._recoveries, places)
        try:
            await self._note_model(places)
            await self._production.run()
            self._has_yielded = self._production.has_yielded and not self.live.is_paused
            if not self._has_yielded:
                self._recoveries.put_off()
                self._shared.admission.running.drop(self.live.record.session)
        finally:
            self._production = None
            places.stage.release()
            places.decoder.release()

    async def _places(self) -> Places:
        """Places at a stage and a decoder: from the queue, or ahead of it for what ran before."""
        running, _session = self._shared.admission.running, self.live.record.session
        if self._recoveries.is_urgent or self._has_yielded:
            both = frozenset({"stage", "decoder"})
            running.put(running_of(self.live, needs=both, lacks=both))
            timeout_s = self._shared.settings.gateway.recovery_timeout_s
            async with or_over(timeout_s, "stage and decoder", partial(lacks_of, self.live)):
                return await self._shared.admission.both(needs_of(self.live))
        self.live.claim = claim = await self._enqueue()
        telling = asyncio.create_task(self._tell_queue())
        try:
            await self.live.set_state(session_pb2.SESSION_STATE_QUEUED)
            return Places(*await claim.wait())
        finally:
            telling.cancel()
            claim.cancel()
            self.live.claim = None

    async def _enqueue(self) -> Claim:
        """A place in the queue. A full one refuses new sessions; a session that exists waits until it has
        room."""
        needs = needs_of(self.live, is_resumed=self._recoveries.was_active)
        while True:
            try:
                return self._shared.admission.enqueue(needs)
            except QueueFull:
                await asyncio.sleep(QUEUE_RETRY_S)

    async def _note_model(self, places: Places) -> None:
        """Note which model makes the session, and what must be kept of it."""
        live, stage, decoder = self.live, places.stage.peer.status, places.decoder.peer.status
        if live.record.notes.get(views.MODEL):
            return
        model = stage.model if stage else self._shared.admission.find_model(live.spec.model)
        assert model, "a stage that gives a place has told its model"
        settings = self._shared.settings.gateway
        limits = Limits(
            num_sink_blocks=model.sink_blocks,
            num_recent_blocks=max(1, model.context_blocks),
            num_warmup_blocks=decoder.warmup_blocks if decoder else 0,
            num_segments=settings.kept_segments,
            max_bytes=settings.session_bytes,
        )
        noted = ModelInfo()
        noted.CopyFrom(model)
        noted.ClearField("example_prompts")  # no part of the session
        await live.write(LimitsSet(limits), Noted(views.MODEL, noted.SerializeToString()))
        live.spec = views.spec_of(live.record)

    # What goes on beside it.

    async def _obey(self) -> None:
        """End when somebody orders it."""
        await self.live.wakeup.until(lambda: self.live.ordered_end)
        assert self.live.ordered_end
        raise self.live.ordered_end

    async def _tell_state(self) -> None:
        """Note and tell every change of state."""
        while True:
            await self.live.wakeup.until(lambda: self.live.is_news(self._state()))
            await self.live.set_state(self._state())

    def _state(self) -> "session_pb2.SessionState.ValueType":
        live, losing = self.live, self._recoveries.is_urgent
        if self._production is None and self._is_made:
            return session_pb2.SESSION_STATE_PAUSED if live.is_paused else session_pb2.SESSION_STATE_ACTIVE
        if self._production is None and not losing:
            is_waiting = live.claim or not live.is_paused
            return session_pb2.SESSION_STATE_QUEUED if is_waiting else session_pb2.SESSION_STATE_PAUSED
        if self._production is None or not self._production.is_open:
            return session_pb2.SESSION_STATE_RECOVERING if losing else session_pb2.SESSION_STATE_STARTING
        return session_pb2.SESSION_STATE_PAUSED if live.is_paused else session_pb2.SESSION_STATE_ACTIVE

    async def _tell_queue(self) -> None:
        """Tell how far it is in the queue, at most once a second."""
        told: tuple[int, str] | None = None
        while (claim := self.live.claim) and claim.position and (queue := self.live.queue):
            if told == (queue.position, queue.message):
                await race(claim.changed(), asyncio.sleep(QUEUE_LOOK_S))
                continue
            told = queue.position, queue.message
            self.live.publish(Response(queue_changed=queue))
            await asyncio.sleep(QUEUE_NEWS_S)

    async def _resumed(self) -> None:
        """Until it is resumed, or made: then only acknowledgements are missing, which come during a pause as
        well."""
        await self.live.wakeup.until(lambda: not self.live.is_paused or self._is_made)

    async def _leave_idle(self) -> None:
        """End a session that nobody controls."""
        timeout_s = self.live.spec.idle_timeout.ToMilliseconds() / 1000
        while True:
            left_s = self.live.alone_since + timeout_s - time.monotonic()
            if self.live.controller:
                await self.live.wakeup.until(lambda: not self.live.controller)
            elif left_s <= 0:
                raise SessionOver(session_pb2.END_REASON_IDLE)
            else:
                await race(self.live.wakeup.until(lambda: self.live.controller), asyncio.sleep(left_s))

    async def _leave_late(self) -> None:
        """End a session that is longer than its tenant may have."""
        limit_s = self._shared.quotas.of(self.live.record.tenant).max_session_s
        if limit_s is None:
            await asyncio.Event().wait()
            return
        now_ms = self._shared.now_ms()
        started_ms = int(self.live.record.notes.get(views.STARTED, now_ms))
        await asyncio.sleep(max(0.0, limit_s - (now_ms - started_ms) / 1000))
        tenant = self.live.record.tenant
        error = QuotaExceeded(f"a session lasts at most {limit_s:g} s", subject=f"tenant:{tenant}")
        raise SessionOver(session_pb2.END_REASON_EVICTED, describe(error, ""))

    async def _end(self, over: SessionOver) -> None:
        live = self.live
        end = session_pb2.SessionEnd(
            reason=over.reason,
            status=over.status,
            end_time=views.timestamp(self._shared.now_ms()),
            last_sequence=live.record.next_decoder_block,
        )
        await live.write(Noted(views.EPOCH, str(live.lease.epoch).encode()), Ended(end.SerializeToString()))
        log.info("session ended", reason=str(over), status=over.status and over.status.message)
        self._shared.metrics.session_ended(live.record.session, over.reason)
        await live.set_state(session_pb2.SESSION_STATE_ENDED)
        live.publish(Response(ended=end))
