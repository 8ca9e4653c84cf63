"""Keeps the worker process running and busy: sessions in, answers out, fairly."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog

from cascade.v1 import common_pb2
from cascade_client.processes.restarts import Restarts
from cascade_core.config import ModelCard
from cascade_core.errors import OutOfCapacity, SessionLost
from services.common.errors import NotReady
from services.common.health import Heartbeat
from services.decoder.fair_queue import FairQueue
from services.decoder.feeder import Feeder
from services.decoder.messages import (
    Answer,
    BlockEncoded,
    BlockWarmed,
    DecodeBlock,
    DecoderReady,
    DecoderUnusable,
    DropSession,
    Job,
    LoadDecoder,
    OpenSession,
    PicturesEncoded,
    Pong,
    Reply,
)
from services.decoder.metrics import DecoderMetrics
from services.decoder.process import WorkerLost, WorkerProcess, WorkerUnusable
from services.decoder.settings import DecoderSettings
from services.decoder.video_settings import VideoSettings

State: TypeAlias = "common_pb2.ServingState.ValueType"
log = structlog.get_logger(__name__)
MAX_FITTING = 64
"""Places at most, where memory alone would allow more."""
FIRST_RESTART_S, LONGEST_RESTART_S = 0.1, 30.0


@dataclass(eq=False)
class DecoderSession:
    """One session at the worker, or one clip that is encoded."""

    id: int
    places: int
    """0 for a clip."""
    deliver: Callable[[Answer | Exception], None] = field(repr=False)
    """Gets each part and answer in order; an exception is the last. Must return at once."""


class Dispatcher:
    """The worker and what it has to do. `run` has to be running."""

    def __init__(
        self,
        card: ModelCard,
        settings: DecoderSettings,
        progress: Heartbeat,
        metrics: DecoderMetrics,
        on_change: Callable[[], None],
    ) -> None:
        self._load = LoadDecoder(card, settings)
        self._settings = settings
        self._progress = progress
        self.metrics = metrics
        self._on_change = on_change
        self._sessions: dict[int, DecoderSession] = {}
        self._ids = itertools.count()
        self._queue: FairQueue[int, Job] = FairQueue()
        self._feeder: Feeder | None = None
        self.state: State = common_pb2.SERVING_STATE_STARTING
        self.message = "loading"
        self.ready: DecoderReady | None = None
        """Of the newest worker; None before the first."""
        self.num_restarts = 0
        self.last_block_s = 0.0

    @property
    def pid(self) -> int | None:
        """The worker, while it is ready."""
        return self._feeder.process.pid if self._feeder else None

    @property
    def num_sessions(self) -> int:
        return sum(session.places > 0 for session in self._sessions.values())

    @property
    def num_pending(self) -> int:
        """Jobs that wait or are at the worker."""
        return len(self._queue) + (self._feeder.num_ahead if self._feeder else 0)

    @property
    def max_sessions(self) -> int:
        """Of the card's size; 0 before the first worker has told what fits."""
        if self._settings.max_sessions:
            return self._settings.max_sessions
        return min(self.ready.num_fitting, MAX_FITTING) if self.ready else 0

    def check(self, places: int, places_freed: int = 0) -> None:
        """Raise NotReady or OutOfCapacity where a session of that size cannot be opened now."""
        if self._feeder is None:
            raise NotReady(self.message)
        taken = sum(session.places for session in self._sessions.values()) - places_freed
        if taken + places > self.max_sessions:
            raise OutOfCapacity(f"{taken} of {self.max_sessions} places are taken")

    def open(
        self,
        profiles: tuple[VideoSettings, ...],
        places: int,
        deliver: Callable[[Answer | Exception], None],
    ) -> DecoderSession:
        """Answered by SessionOpened or SessionRefused; raises as `check`. `close` has to follow."""
        self.check(places)
        session = DecoderSession(next(self._ids), places, deliver)
        self._sessions[session.id] = session
        self.submit(session, OpenSession(session.id, profiles))
        return session

    def open_clip(self, deliver: Callable[[Answer | Exception], None]) -> DecoderSession:
        """A clip to be encoded, which takes no session's place; raises NotReady. `close` has to follow."""
        if self._feeder is None:
            raise NotReady(self.message)
        clip = DecoderSession(next(self._ids), 0, deliver)
        self._sessions[clip.id] = clip
        return clip

    def submit(self, session: DecoderSession, job: Job) -> None:
        """Put a job at the end of the session's or clip's own line; of a session that is over, nothing comes
        of it."""
        if session.id in self._sessions:
            self._queue.push(session.id, job)
            if isinstance(job, DecodeBlock):
                self.metrics.latent_bytes.inc(len(job.data))
            if self._feeder:
                self._feeder.wakeup.set()
            self._changed()

    def close(self, session: DecoderSession) -> None:
        """Free its place; nothing more is delivered."""
        if self._sessions.pop(session.id, None) is None:
            return
        self._queue.drop(session.id)
        if self._feeder:
            self._feeder.process.post(DropSession(session.id))
        self._changed()

    async def run(self) -> None:
        """Start the worker, again and again, until cancelled."""
        restarts = Restarts(FIRST_RESTART_S, LONGEST_RESTART_S)
        while True:
            started_s = time.monotonic()
            try:
                async with WorkerProcess(self._load, self._settings.start_deadline_s) as process:
                    await self._serve(process)
            except WorkerUnusable as error:
                self._lose(common_pb2.SERVING_STATE_UNHEALTHY, f"cannot load: {error}")
            except (WorkerLost, OSError) as error:  # the second: no process can be started
                self._lose(common_pb2.SERVING_STATE_RESTARTING, f"the worker was lost: {error}")
            await asyncio.sleep(restarts.wait_s(time.monotonic() - started_s))
            self.num_restarts += 1
            self.metrics.restarts.inc()
            self._changed()

    async def _serve(self, process: WorkerProcess) -> None:
        """Use the worker until it is lost."""
        self._feeder = Feeder(process, self._queue, self._settings.block_deadline_s, self._take)
        self.ready = process.ready
        self.state, self.message = common_pb2.SERVING_STATE_READY, ""
        log.info("worker ready", pid=process.pid, device=process.ready.device, places=self.max_sessions)
        self._changed()
        await self._feeder.run()

    def _take(self, reply: Reply) -> None:
        self._progress.advance()
        if isinstance(reply, DecoderReady | DecoderUnusable):
            raise WorkerLost(f"it said {type(reply).__name__} again")
        if not isinstance(reply, Pong):
            self._hand_out(reply)
        self._changed()

    def _hand_out(self, reply: Answer) -> None:
        if isinstance(reply, BlockEncoded):
            self.metrics.note(reply)
            self.last_block_s = reply.decode_s + sum(piece.encode_s for piece in reply.pieces)
        elif isinstance(reply, BlockWarmed):
            self.metrics.warmup_blocks.inc()
        elif isinstance(reply, PicturesEncoded):
            self.metrics.latents_made.inc()
        session = self._sessions.get(reply.session)
        if session:
            session.deliver(reply)

    def _lose(self, state: State, message: str) -> None:
        """All sessions end; whoever opens again finds NOT_READY until the next worker is up."""
        num_sessions = self.num_sessions
        log.error("worker lost", reason=message, num_sessions=num_sessions)
        self._feeder = None
        self.state, self.message = state, message
        self._queue.clear()
        sessions = list(self._sessions.values())
        self._sessions.clear()
        self.metrics.sessions_lost.inc(num_sessions)
        for session in sessions:
            session.deliver(SessionLost(message))
        self._changed()

    def _changed(self) -> None:
        self._progress.set_waiting(self.num_pending > 0)
        self.metrics.sessions.set(self.num_sessions)
        self.metrics.pending.set(self.num_pending)
        self._on_change()
