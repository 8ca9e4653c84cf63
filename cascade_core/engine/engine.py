"""The parent side: sessions in, clean latent blocks out. It plans ticks and never touches CUDA.

engine = await Engine.start(make(EngineConfig, {"model": "demo", "weights": "random"}))
session = await engine.open(SessionRequest({0: "a red circle moves left"}))
async for event in session:
    ...
await engine.close()
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from cascade_core.arrays import Array
from cascade_core.config import EngineConfig, ModelCard, check_engine, find_card
from cascade_core.engine.capacity import check_room, max_pixels, num_slots
from cascade_core.engine.embeddings import EmbeddingCache
from cascade_core.engine.session import BlockTiming, Ended, LatentBlock, PendingSwitch, Session
from cascade_core.engine.status import Counters, EngineObserver, EngineStatus
from cascade_core.errors import CascadeError, SessionClosed, SessionLost
from cascade_core.loras import check_choices, numbered
from cascade_core.ranks.group import GroupLost
from cascade_core.ranks.messages import AddPrompt, Drop, Tick, Ticked
from cascade_core.ranks.ranks import CLOSED, Ranks
from cascade_core.request import (
    SessionRequest,
    SwitchRequest,
    check_mode,
    check_request,
    check_types,
    course_entries,
    with_defaults,
)
from cascade_core.schedule import (
    Candidate,
    TickPlan,
    choose_session,
    context_blocks,
    engine_shape,
    plan_tick,
    starting_block,
)

log = logging.getLogger(__name__)

TICKS_AHEAD = 2
"""Plans sent before the first is answered, so that a rank finds its next tick waiting."""
MAX_LEAD_S = 5.0
"""A session that ran ahead while it was alone does not wait longer than this for those that come later."""
MAX_HURRY_S = 1.0
"""A session whose client needs blocks sooner than the engine reckons is no more than this ahead of others."""


class Engine:
    """One model on one group of ranks, serving several sessions by playback deadline."""

    def __init__(self, config: EngineConfig, observer: EngineObserver | None = None) -> None:
        """Checks the configuration; `start` makes a running engine."""
        self.config = config
        self.card: ModelCard = find_card(config.model)
        check_engine(config, self.card)
        self.shape = engine_shape(config, self.card)
        self._sessions: dict[int, Session] = {}
        self._numbers = itertools.count(1)
        self._wakeup = asyncio.Event()
        self._ranks = Ranks(config, self.card)
        self._embeddings = EmbeddingCache(self._ranks.encode, config.text_cache_entries)
        self._ahead: deque[TickPlan] = deque()
        """Sent to the ranks and not answered yet."""
        self._counters = Counters(observer)
        self._supervisor: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, config: EngineConfig, observer: EngineObserver | None = None) -> "Engine":
        """Load the model on all ranks. Raises UserError, or SessionLost if the ranks cannot start."""
        engine = cls(config, observer)
        await engine._ranks.start()
        if config.quantize != "none" and engine.status.device == "cpu":
            log.warning("quantize: %s is slow on a CPU, and there for tests", config.quantize)
        engine._supervisor = asyncio.create_task(engine._supervise(), name="engine")
        return engine

    async def __aenter__(self) -> "Engine":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all sessions and all rank processes."""
        self._ranks.refuse()
        if self._supervisor:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._end_all(SessionClosed(CLOSED))
        await self._ranks.close()

    @property
    def status(self) -> EngineStatus:
        group, counters = self._ranks.group, self._counters
        return EngineStatus(
            ready=self._ranks.are_up,
            num_restarts=counters.num_restarts,
            num_sessions=len(self._sessions),
            max_sessions=self.num_slots(()),
            num_blocks=counters.num_blocks,
            device=group.ready[0].device if group.ready else "",
            compiled=any(rank.compiled for rank in group.ready),
            start=group.start_times,
            last_tick_s=counters.last_tick_s,
            median_tick_s=counters.median_tick_s,
            process_ids=tuple(group.process_ids),
        )

    @property
    def has_work(self) -> bool:
        """Whether a tick is under way, or a session waits for one."""
        return bool(self._ahead) or any(session.can_tick for session in self._sessions.values())

    @property
    def max_pixels(self) -> int:
        """Largest width x height of a session."""
        return max_pixels(self.config, self.card)

    def num_slots(self, others: Sequence[SessionRequest]) -> int:
        """Sessions of the card's size that fit, those others included; 0 before the ranks are up."""
        ranks = self._ranks.group.ready
        return num_slots(others, self.config, self.card, ranks) if ranks else 0

    def check_room(self, request: SessionRequest, others: Sequence[SessionRequest]) -> None:
        """Raise OutOfCapacity or InvalidRequest where the session does not fit beside those others. All of
        them name their size, as after `with_defaults`."""
        check_room(request, others, self.config, self.card, self._ranks.group.ready)

    def context_blocks(self, start_block: int, cuts: Sequence[int] = ()) -> list[int]:
        """Blocks whose clean latents a session opened at `start_block` needs; `cuts`: as its request's."""
        return context_blocks(self.shape.window, start_block, cuts)

    async def open(self, request: SessionRequest) -> Session:
        """Open a session; returns when its context is in the caches, whatever its credit.

        Raises UserError, OutOfCapacity, SessionClosed or SessionLost.
        """
        check_types(request)
        request = with_defaults(request, self.config, self.card)
        check_request(request, self.config, self.card)
        self._require_room(request)
        initial = course_entries(request)
        later = sorted(block for block in request.prompts if block > request.start_block)
        embeddings = {
            block: await self._embeddings.of(request.prompts[block]) for block in (*initial, *later)
        }
        self._require_room(request)  # embedding took a while
        session = Session(self, next(self._numbers), request, self.shape)
        for block in later:
            loras, transition = request.loras.get(block), request.transitions.get(block)
            switch = PendingSwitch(block, "", embeddings[block], request.switch_mode, loras, transition)
            session.switches.append(switch)
        session.unknown_words = {
            block: embedding.unknown_words
            for block, embedding in embeddings.items()
            if embedding.unknown_words
        }
        self._sessions[session.number] = session
        try:
            rows = session.set_prompts({block: embeddings[block].rows for block in initial})
            await self._ranks.open(session.number, request, rows)
            session.open()
            self.wake()
            await session.wait_primed()  # the deadline of a tick bounds it
        except BaseException:
            self._forget(session)
            raise
        return session

    # For sessions (see session.Host).

    def wake(self) -> None:
        self._wakeup.set()

    def end(self, session: Session, event: Ended) -> None:
        session.push(event)
        self._forget(session)

    async def switch(self, session: Session, request: SwitchRequest) -> None:
        if request.loras is not None:
            check_choices("loras", request.loras, self.config.loras)
        check_mode("mode", request.mode, self.card, request.transition is not None)
        async with session.switching():
            try:
                embedding = await self._embeddings.of(request.prompt)
            except CascadeError:
                session.require_open()  # what happened to the session counts more
                raise
            session.require_open()
            session.schedule(
                PendingSwitch(
                    request.at_block,
                    request.request_id,
                    embedding,
                    request.mode,
                    request.loras,
                    request.transition,
                )
            )
            self._apply_switches(session)
        self.wake()

    # The loop.

    async def _supervise(self) -> None:
        """Drive the ranks; when they are lost, end their sessions and start them again."""
        while True:
            try:
                await self._drive()
            except (GroupLost, CascadeError) as error:
                log.error("ranks lost: %s", error)
                reason = f"the ranks were lost: {error}"
            except Exception as error:
                log.exception("the engine failed")
                reason = f"the engine failed: {error!r}"
            self._end_all(SessionLost(reason))
            await self._ranks.restart()
            self._counters.count_restart()

    async def _drive(self) -> None:
        """Plan, run, emit."""
        self._ahead.clear()
        group = self._ranks.group
        while True:
            while len(self._ahead) < TICKS_AHEAD and (plan := self._plan()):
                group.send(Tick(plan))
                self._ahead.append(plan)
            if self._ahead:
                answers = await group.tick()
                self._emit(self._ahead.popleft(), answers)
            else:
                await self._idle()

    def _plan(self) -> TickPlan | None:
        chosen = choose_session(
            Candidate(session.number, self._due_s(session), session.can_tick)
            for session in self._sessions.values()
        )
        if chosen is None:
            return None
        session = self._sessions[chosen]
        self._apply_switches(session)
        plan, session.timeline = plan_tick(session.timeline, session.shape)
        assert plan is not None, "a session that can tick has work"
        for rank, prompts in enumerate(session.take_prompts(plan)):
            for prompt, new in prompts.items():
                choice = numbered(new.loras, self.config.loras)
                command = AddPrompt(session.number, prompt, new.rows, choice, new.forget)
                self._ranks.group.send_to(rank, command)
        session.book(plan, time.monotonic())
        return plan

    def _emit(self, plan: TickPlan, answers: list[Ticked]) -> None:
        tick_s = max(answer.compute_s for answer in answers)
        session = self._sessions.get(plan.session)
        if session:
            session.note_tick(plan, tick_s)
        if session and plan.emits is not None:
            latents = next(answer.latents for answer in answers if answer.latents is not None)
            self._push_block(session, plan.emits, latents, tick_s)
        self._counters.count_tick(tick_s, has_block=session is not None and plan.emits is not None)

    def _push_block(self, session: Session, block: int, latents: Array, tick_s: float) -> None:
        now = time.monotonic()
        timing = BlockTiming(now - session.started.pop(block), now, tick_s, session.take_ticks())
        session.push(LatentBlock(block, latents, timing))
        # A viewer whose block came late has waited for it: playback goes on from now.
        due_s = max(session.deadline_s, now) + self._block_s(session, block)
        session.deadline_s = min(due_s, now + MAX_LEAD_S)
        if block + 1 == session.timeline.end_block:
            self.end(session, Ended(session.last_reason))

    async def _idle(self) -> None:
        """Wait until a session may tick, or the group is lost."""
        self._wakeup.clear()
        wakeup = asyncio.ensure_future(self._wakeup.wait())
        try:
            await self._ranks.group.first(wakeup)
        finally:
            wakeup.cancel()

    # Helpers.

    def _block_s(self, session: Session, block: int) -> float:
        return self.card.num_frames(block) / session.request.fps

    def _due_s(self, session: Session) -> float:
        """When its next block is due: nobody gets more than its playback takes, whatever clients say."""
        if session.needed_s is None or not session.credit:
            return session.deadline_s
        last = session.timeline.next_block
        needed_s = session.needed_s - (session.credit - 1) * self._block_s(session, last)
        return max(needed_s, session.deadline_s - MAX_HURRY_S)

    def _apply_switches(self, session: Session) -> None:
        """Make the switches that are due, right before the tick in which their block starts."""
        while switch := session.due_switch(starting_block(session.timeline, session.shape)):
            session.apply(switch)

    def _require_room(self, request: SessionRequest) -> None:
        self._ranks.require_up()
        self.check_room(request, [session.request for session in self._sessions.values()])

    def _forget(self, session: Session) -> None:
        if self._sessions.pop(session.number, None) and self._ranks.are_up:
            self._ranks.group.send(Drop(session.number))

    def _end_all(self, error: CascadeError) -> None:
        for session in self._sessions.values():
            session.fail(error)
        self._sessions.clear()
