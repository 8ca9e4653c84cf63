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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import torch

from cascade_core.capacity import check_room, max_sessions
from cascade_core.config import EngineConfig, ModelCard, check_engine, find_card, uses_random_weights
from cascade_core.embeddings import EmbeddingCache
from cascade_core.errors import (
    CascadeError,
    OutOfCapacity,
    SessionClosed,
    SessionLost,
)
from cascade_core.group import GroupLost, RankGroup, in_daemon_thread
from cascade_core.locate import ModelFiles, locate
from cascade_core.messages import AddPrompt, Array, Drop, Embedding, Open, Tick, Ticked
from cascade_core.request import (
    SessionRequest,
    SwitchRequest,
    check_request,
    check_types,
    initial_prompts,
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
    switch_prompt,
)
from cascade_core.session import BlockTiming, Ended, LatentBlock, PendingSwitch, PromptApplied, Session

log = logging.getLogger(__name__)

TICKS_AHEAD = 2
"""Plans sent before the first is answered, so that a rank finds its next tick waiting."""
MAX_LEAD_S = 5.0
"""A session that ran ahead while it was alone does not wait longer than this for those that come later."""
RESTART_DELAYS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
CLOSED = "the engine was closed"


@dataclass(frozen=True)
class EngineStatus:
    """A snapshot for health checks and placement."""

    ready: bool
    """Ranks are up; False while they restart."""
    num_restarts: int
    num_sessions: int
    max_sessions: int
    """Sessions of the default size that fit."""
    device: str
    last_tick_s: float
    process_ids: tuple[int, ...]


class Engine:
    """One model on one group of ranks, serving several sessions by playback deadline."""

    def __init__(self, config: EngineConfig) -> None:
        """Checks the configuration; `start` makes a running engine."""
        self.config = config
        self.card: ModelCard = find_card(config.model)
        check_engine(config, self.card)
        self.shape = engine_shape(config, self.card)
        self._sessions: dict[int, Session] = {}
        self._numbers = itertools.count(1)
        self._wakeup = asyncio.Event()
        self._embeddings = EmbeddingCache(self._encode, config.text_cache_entries)
        self._files: ModelFiles | None = None
        self._group = RankGroup(config, self.card, None)
        self._ready = False
        self._closed = False
        self._num_restarts = 0
        self._last_tick_s = 0.0
        self._supervisor: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, config: EngineConfig) -> "Engine":
        """Load the model on all ranks. Raises UserError, or SessionLost if the ranks cannot start."""
        engine = cls(config)
        try:
            if not uses_random_weights(config, engine.card):
                # Once and here: a download must not run against the ranks' deadline, nor again at a restart.
                engine._files = await in_daemon_thread(partial(locate, engine.card, config.weights))
                engine._group = RankGroup(config, engine.card, engine._files)
            await engine._group.start()
        except GroupLost as error:
            await engine._group.close()
            raise SessionLost(f"the ranks could not start: {error}") from None
        except BaseException:
            await engine._group.close()
            raise
        engine._ready = True
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
        self._closed = True
        if self._supervisor:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._ready = False
        self._end_all(SessionClosed(CLOSED))
        await self._group.close()

    @property
    def status(self) -> EngineStatus:
        ranks = self._group.ready
        return EngineStatus(
            ready=self._ready,
            num_restarts=self._num_restarts,
            num_sessions=len(self._sessions),
            max_sessions=max_sessions(self.config, self.card, ranks) if ranks else 0,
            device=ranks[0].device if ranks else "",
            last_tick_s=self._last_tick_s,
            process_ids=tuple(self._group.process_ids),
        )

    def context_blocks(self, start_block: int) -> list[int]:
        """Blocks whose clean latents a session opened at `start_block` needs."""
        return context_blocks(self.shape.window, start_block)

    async def open(self, request: SessionRequest) -> Session:
        """Open a session. Raises UserError, OutOfCapacity or SessionLost."""
        check_types(request)
        request = with_defaults(request, self.card)
        check_request(request, self.card, self.shape)
        self._check_room(request)
        initial = initial_prompts(request)
        later = sorted(block for block in request.prompts if block > request.start_block)
        embeddings = {
            block: await self._embeddings.get(request.prompts[block]) for block in (*initial, *later)
        }
        self._check_room(request)  # embedding took a while
        session = Session(self, next(self._numbers), request, self.shape)
        for block in later:
            session.switches.append(PendingSwitch(block, "", embeddings[block], request.switch_mode))
        session.unknown_words = {
            request.prompts[block]: embedding.unknown_words
            for block, embedding in embeddings.items()
            if embedding.unknown_words
        }
        self._sessions[session.number] = session
        try:
            await self._open_on_ranks(session, [embeddings[block].rows for block in initial])
        except BaseException:
            self._forget(session)
            raise
        session.open()
        self.wake()
        return session

    # For sessions (see session.Host).

    def wake(self) -> None:
        self._wakeup.set()

    def end(self, session: Session, event: Ended) -> None:
        session.push(event)
        self._forget(session)

    async def switch(self, session: Session, request: SwitchRequest) -> None:
        async with session.switching():
            try:
                embedding = await self._embeddings.get(request.prompt)
            except CascadeError:
                session.require_open()  # what happened to the session counts more
                raise
            session.require_open()
            session.schedule(PendingSwitch(request.at_block, request.request_id, embedding, request.mode))
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
            self._ready = False
            self._end_all(SessionLost(reason))
            await self._restart()

    async def _drive(self) -> None:
        """Plan, run, emit."""
        ahead: deque[TickPlan] = deque()
        while True:
            while len(ahead) < TICKS_AHEAD and (plan := self._plan()):
                self._group.send(Tick(plan))
                ahead.append(plan)
            if ahead:
                self._emit(ahead.popleft(), await self._group.tick())
            else:
                await self._idle()

    def _plan(self) -> TickPlan | None:
        chosen = choose_session(
            Candidate(session.number, session.deadline_s, session.can_tick)
            for session in self._sessions.values()
        )
        if chosen is None:
            return None
        session = self._sessions[chosen]
        self._apply_switches(session)
        plan, session.timeline = plan_tick(session.timeline, self.shape)
        assert plan is not None, "a session that can tick has work"
        for prompt, embedding in session.take_prompts(plan).items():
            self._group.send(AddPrompt(session.number, prompt, embedding))
        session.book(plan, time.monotonic())
        return plan

    def _emit(self, plan: TickPlan, answers: list[Ticked]) -> None:
        tick_s = self._last_tick_s = max(answer.compute_s for answer in answers)
        session = self._sessions.get(plan.session)
        if session is None or plan.emits is None:
            return
        block = plan.emits
        latents = next(answer.latents for answer in answers if answer.latents is not None)
        now = time.monotonic()
        timing = BlockTiming(now - session.started.pop(block), now, tick_s)
        session.push(LatentBlock(block, torch.from_numpy(latents), timing))
        # A viewer whose block came late has waited for it: playback goes on from now.
        due_s = max(session.deadline_s, now) + self.card.num_frames(block) / self.card.video.fps
        session.deadline_s = min(due_s, now + MAX_LEAD_S)
        if block + 1 == session.timeline.end_block:
            self.end(session, Ended(session.last_reason))

    async def _idle(self) -> None:
        """Wait until a session may tick, or the group is lost."""
        self._wakeup.clear()
        wakeup = asyncio.ensure_future(self._wakeup.wait())
        try:
            await self._group.first(wakeup)
        finally:
            wakeup.cancel()

    async def _restart(self) -> None:
        for attempt in itertools.count():
            self._group.kill()
            await self._group.close()
            await asyncio.sleep(RESTART_DELAYS_S[min(attempt, len(RESTART_DELAYS_S) - 1)])
            try:
                self._group = RankGroup(self.config, self.card, self._files)
                await self._group.start()
            except Exception as error:  # no weights, no processes, no disk: whatever it is may pass
                log.error("ranks did not start, attempt %d: %s", attempt + 1, error)
                continue
            self._num_restarts += 1
            self._ready = True
            return

    # Helpers.

    def _apply_switches(self, session: Session) -> None:
        """Make the switches that are due, right before the tick in which their block starts."""
        while switch := session.due_switch(starting_block(session.timeline, self.shape)):
            prompt = next(session.prompt_numbers)
            session.timeline, receipt = switch_prompt(session.timeline, self.shape, prompt, switch.mode)
            session.add_prompt(prompt, switch.embedding.rows)
            session.push(
                PromptApplied(
                    request_id=switch.request_id,
                    first_block_touched=receipt.first_block_touched,
                    first_block_full=receipt.first_block_full,
                    unknown_words=switch.embedding.unknown_words,
                )
            )

    async def _encode(self, prompt: str) -> Embedding:
        with self._lost_is_retryable():
            return await self._group.encode(prompt)

    async def _open_on_ranks(self, session: Session, prompts: list[Array]) -> None:
        request = session.request
        command = Open(
            session=session.number,
            seed=request.seed,
            height=request.height,
            width=request.width,
            context={
                block: latents.detach().cpu().float().numpy() for block, latents in request.context.items()
            },
            prompts=dict(enumerate(prompts)),
        )
        try:
            with self._lost_is_retryable():
                await self._group.open(command)
        except MemoryError as error:
            raise OutOfCapacity(f"no memory for the session: {error}") from None

    @contextmanager
    def _lost_is_retryable(self) -> Iterator[None]:
        self._require_ready()
        try:
            yield
        except GroupLost as error:
            if self._closed:
                raise SessionClosed(CLOSED) from None
            raise SessionLost(f"the ranks were lost: {error}") from None

    def _require_ready(self) -> None:
        if self._closed:
            raise SessionClosed(CLOSED)
        if not self._ready:
            raise OutOfCapacity("the ranks are starting again; retry soon")

    def _check_room(self, request: SessionRequest) -> None:
        self._require_ready()
        open_requests = [session.request for session in self._sessions.values()]
        check_room(request, open_requests, self.config, self.card, self._group.ready)

    def _forget(self, session: Session) -> None:
        if self._sessions.pop(session.number, None) and self._ready:
            self._group.send(Drop(session.number))

    def _end_all(self, error: CascadeError) -> None:
        for session in self._sessions.values():
            session.fail(error)
        self._sessions.clear()
