"""The handle of one session, and the events that come back."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from cascade_core.arrays import Array
from cascade_core.config import SwitchMode
from cascade_core.engine.course import Course
from cascade_core.errors import CascadeError, InvalidRequest, OutOfCapacity, SessionClosed
from cascade_core.loras import Choices
from cascade_core.prompts import Prompt, Transition, check_prompt, check_transition
from cascade_core.ranks.messages import Embedding, NewPrompt
from cascade_core.request import (
    MAX_PROMPTS,
    SessionRequest,
    SwitchRequest,
    check_types,
    first_timeline,
    loras_at,
    session_shape,
)
from cascade_core.schedule import Shape, TickPlan, Work, switch_prompt

if TYPE_CHECKING:
    import torch

MAX_UNREAD_EVENTS = 32
"""Events that may wait for the reader; beyond it a session takes no ticks and no switches."""

MAX_TICKS = 16
"""The most ticks that a block tells of; a cascade finishes one block every `stagger` ticks."""

EndReason = Literal["closed", "complete", "positions_exhausted"]


@dataclass(frozen=True)
class TickTiming:
    """What one tick of a session did, and how long it took."""

    index: int
    """Counted from 0 in each session."""
    compute_s: float
    """On the slowest rank."""
    ranks: tuple[tuple[Work, ...], ...]
    """Per rank its work, as planned."""

    @property
    def passes(self) -> list[tuple[Work, int]]:
        """Each pass with its rank, by ascending block."""
        works = [(work, rank) for rank, some in enumerate(self.ranks) for work in some]
        return sorted(works, key=lambda item: item[0].block)


@dataclass(frozen=True)
class BlockTiming:
    """Where the time of a block went."""

    latency_s: float
    """From the plan of its first pass to its clean latents."""
    finished_s: float
    """`time.monotonic()` when its latents arrived."""
    tick_s: float
    """Compute time of the tick that finished it, on the slowest rank."""
    ticks: tuple[TickTiming, ...] = ()
    """The session's ticks since the block before, oldest first; the newest `MAX_TICKS` of them."""


@dataclass(frozen=True)
class LatentBlock:
    """A finished block."""

    index: int
    array: Array
    """Its latents [F, C, h, w]."""
    timing: BlockTiming

    @property
    def latents(self) -> "torch.Tensor":
        """The same, float32, on the CPU."""
        import torch  # which an engine's parent does without otherwise

        return torch.from_numpy(self.array)


@dataclass(frozen=True)
class PromptApplied:
    """Receipt of a prompt switch that has taken effect.

    Both blocks may lie beyond the last, where a switch came after the last block had started.
    """

    request_id: str
    first_block_touched: int
    """The first block whose picture the new prompt still changes."""
    first_block_full: int
    """The first block made under the new prompt alone."""
    unknown_words: tuple[str, ...] = ()
    """Words of the new prompt that the model does not know and ignores."""
    loras: Choices = ()
    """LoRAs that are used from then on."""
    last_block_mixed: int | None = None
    """The last block made under a mix of the old prompt and the new one; None: there was no transition."""


@dataclass(frozen=True)
class Ended:
    """The last event of a session that ended without an error."""

    reason: EndReason


Event = LatentBlock | PromptApplied | Ended


@dataclass(frozen=True)
class PendingSwitch:
    """A switch whose embedding is known."""

    block: int | None
    """It waits for this block to start; None: due at once."""
    request_id: str
    embedding: Embedding
    mode: SwitchMode
    loras: Choices | None = None
    """None: those that are used before it."""
    transition: Transition | None = None


class Host(Protocol):
    """What a session needs of its engine."""

    def wake(self) -> None:
        """Something changed that may allow a tick."""

    def end(self, session: "Session", event: Ended) -> None:
        """Forget the session and free its memory."""

    async def switch(self, session: "Session", request: SwitchRequest) -> None:
        """Embed and apply a prompt."""


class Session:
    """One continuous video. Iterate over it for its events; a lost session raises SessionLost."""

    def __init__(self, host: Host, number: int, request: SessionRequest, shape: Shape) -> None:
        """`shape`: the engine's."""
        self.number = number
        self.request = request
        self.shape = session_shape(request, shape)
        self.unknown_words: Mapping[int, tuple[str, ...]] = {}
        """By block of the request's prompt, where it has any: words that the model does not know, and so
        ignores."""
        self.timeline = first_timeline(number, request, shape)
        self.credit = request.credit
        self.paused = False
        self.deadline_s = 0.0
        """When the next block is due on the viewer's screen, as the engine reckons, on its clock."""
        self.needed_s: float | None = None
        """When the last block that there is credit for is needed, as the client says, on that clock."""
        self.switches: list[PendingSwitch] = []
        """Switches that wait for their block, by block."""
        self.loras = loras_at(request, request.start_block)
        """Of the newest prompt."""
        self.course = Course()
        self._sent: tuple[set[int], ...] = tuple(set() for _ in range(self.shape.num_ranks))
        """By rank: numbers of the prompts that it has."""
        self.started: dict[int, float] = {}
        """When each block in flight was first planned."""
        self._num_ticks = 0
        self._ticks: deque[TickTiming] = deque(maxlen=MAX_TICKS)
        self._host = host
        self._events: asyncio.Queue[Event | CascadeError] = asyncio.Queue()
        self._switch_lock = asyncio.Lock()
        self._num_switching = 0
        self._is_open = False
        self._primed = asyncio.Event()
        self._ended = False
        self._error: CascadeError | None = None
        self._read_to_end = False

    @property
    def can_tick(self) -> bool:
        """Whether it may tick: it is open, has work, has credit or a context to be primed with, and somebody
        reads its events."""
        stopped = not self._is_open or self._ended or self.paused or self.timeline.finished
        has_credit = self.credit != 0 or bool(self.timeline.to_prime)
        return not stopped and has_credit and self._events.qsize() < MAX_UNREAD_EVENTS

    async def switch(
        self,
        prompt: Prompt,
        mode: SwitchMode = "immediate",
        request_id: str = "",
        at_block: int | None = None,
        loras: Choices | None = None,
        transition: Transition | None = None,
    ) -> None:
        """Change the prompt, and with `loras` what it is made with, now or when block `at_block` starts; the
        receipt is a PromptApplied event.

        Returns when the prompt is embedded and accepted. Raises InvalidPrompt, InvalidRequest,
        OutOfCapacity (too many wait), SessionClosed or SessionLost.
        """
        self.require_open()
        request = SwitchRequest(prompt, mode, request_id, at_block, loras, transition)
        check_types(request)
        check_prompt("prompt", prompt)
        check_transition("transition", transition)
        await self._host.switch(self, request)

    def grant(self, num_blocks: int, needed_in_s: float | None = None) -> None:
        """Let the session emit that many more blocks. `needed_in_s`: how long from now until the last of them
        is needed, by which sessions share the engine; None: the engine reckons itself, from those made."""
        if not isinstance(num_blocks, int) or num_blocks < 1:
            raise InvalidRequest(f"credit: {num_blocks} is not at least 1")
        if needed_in_s is not None and not 0 <= needed_in_s < math.inf:
            raise InvalidRequest(f"needed_in_s: {needed_in_s} is not 0 or more")
        self.require_open()
        if self.credit is not None:
            self.credit += num_blocks
            self.needed_s = None if needed_in_s is None else time.monotonic() + needed_in_s
        self._host.wake()

    def pause(self) -> None:
        """Take no more ticks until `resume`; blocks in flight freeze where they are."""
        self.require_open()
        self.paused = True

    def resume(self) -> None:
        self.require_open()
        self.paused = False
        self._host.wake()

    async def close(self) -> None:
        """End the session and free its memory; events not read yet stay readable."""
        if not self._ended:
            self._host.end(self, Ended("closed"))

    def __aiter__(self) -> "Session":
        return self

    async def __anext__(self) -> Event:
        """The next event. A caller may give up waiting and ask again; no event is lost."""
        if self._read_to_end:
            raise StopAsyncIteration
        event = await self._events.get()
        self._host.wake()
        if isinstance(event, Ended | CascadeError):
            self._events.put_nowait(event)  # for whoever else waits, or asks again
        if isinstance(event, CascadeError):
            raise event
        self._read_to_end = isinstance(event, Ended)
        return event

    # For the engine.

    @property
    def last_reason(self) -> EndReason:
        """Why the session ends at its end block."""
        asked = self.request.num_blocks
        complete = asked is not None and self.timeline.end_block == self.request.start_block + asked
        return "complete" if complete else "positions_exhausted"

    def open(self) -> None:
        """The ranks have its memory: it may tick."""
        self._is_open = True
        self.deadline_s = time.monotonic()
        if not self.timeline.to_prime:
            self._primed.set()

    async def wait_primed(self) -> None:
        """Until the context is in the caches; raises as `require_open` does."""
        await self._primed.wait()
        self.require_open()

    def note_tick(self, plan: TickPlan, compute_s: float) -> None:
        """A tick is answered; the first primes."""
        self._ticks.append(TickTiming(self._num_ticks, compute_s, plan.ranks))
        self._num_ticks += 1
        self._primed.set()

    def take_ticks(self) -> tuple[TickTiming, ...]:
        """Those answered since the last call."""
        ticks = tuple(self._ticks)
        self._ticks.clear()
        return ticks

    def require_open(self) -> None:
        """Raise SessionClosed once the session has ended, or the error that it was lost with."""
        if self._error:
            raise self._error
        if self._ended:
            raise SessionClosed(f"session {self.number} has ended")

    def push(self, event: Event) -> None:
        """Hand an event to the reader."""
        if not self._ended:
            self._events.put_nowait(event)
            if isinstance(event, Ended):
                self._end()

    def fail(self, error: CascadeError) -> None:
        """The session ends with an error, raised to the reader."""
        if not self._ended:
            self._events.put_nowait(error)
            self._error = error
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._primed.set()  # whoever waits for it is told why it will not be

    def book(self, plan: TickPlan, now: float) -> None:
        """Note a planned tick: when its blocks started, and the credit of the one it finishes."""
        for work in plan.works:
            if work.pass_index == self.shape.first_pass(work.block):
                self.started[work.block] = now
        if plan.emits is not None and self.credit is not None:
            self.credit -= 1

    def set_prompts(self, prompts: Mapping[int, Array]) -> dict[int, NewPrompt]:
        """Begin with these, by block of `course_entries`; returns those that all ranks need to open, by
        number."""
        for block, rows in prompts.items():
            transition, loras = self.request.transitions.get(block), loras_at(self.request, block)
            self.course.turn(block, rows, transition, loras)
        start = self.timeline.prompt_of(self.timeline.next_block)
        numbers = {start, *(work.prompt for work in self.timeline.to_prime)}
        for sent in self._sent:
            sent |= numbers
        return {number: self.course.prompt_of(number) for number in sorted(numbers)}

    def apply(self, switch: PendingSwitch) -> None:
        """Have it take effect in the coming tick."""
        transition, number = switch.transition, self.course.next_prompt
        num_mixed = transition.num_blocks if transition else 0
        self.loras = self.loras if switch.loras is None else switch.loras
        self.timeline, receipt = switch_prompt(self.timeline, self.shape, number, switch.mode, num_mixed)
        self.course.turn(receipt.first_block_touched, switch.embedding.rows, transition, self.loras)
        self.push(
            PromptApplied(
                request_id=switch.request_id,
                first_block_touched=receipt.first_block_touched,
                first_block_full=receipt.first_block_full,
                unknown_words=switch.embedding.unknown_words,
                loras=self.loras,
                last_block_mixed=receipt.last_block_mixed,
            )
        )

    def take_prompts(self, plan: TickPlan) -> list[dict[int, NewPrompt]]:
        """By rank, the prompts that it is to have before this tick, by number: those of its own blocks alone,
        and only what it has not. The first of them takes the place of those that its blocks have no more: a
        rank never has more prompts than it had to open with, or has blocks in flight."""
        oldest = min(work.prompt for work in plan.works)  # those before it, the ranks forget
        taken: dict[int, NewPrompt] = {}
        new: list[dict[int, NewPrompt]] = []
        for sent, works in zip(self._sent, plan.ranks, strict=True):
            wanted = {work.prompt for work in works}
            missing = sorted(wanted - sent)
            taken |= {number: self.course.prompt_of(number) for number in missing if number not in taken}
            due = {number: taken[number] for number in missing}
            if missing:
                due[missing[0]] = replace(due[missing[0]], forget=frozenset(sent - wanted))
                sent &= wanted
            new.append(due)
            sent |= wanted
            sent -= {number for number in sent if number < oldest}
        in_flight = self.timeline.in_flight
        first = in_flight[0].block if in_flight else self.timeline.next_block
        self.course.forget_before(first - 1)
        return new

    @asynccontextmanager
    async def switching(self) -> AsyncIterator[None]:
        """One switch at a time, in the order of the calls, and never too many."""
        if max(self._num_switching, self._events.qsize()) >= MAX_UNREAD_EVENTS:
            raise OutOfCapacity(f"switch: {MAX_UNREAD_EVENTS} switches or unread events are waiting")
        if len(self.switches) + self._num_switching >= MAX_PROMPTS:
            raise OutOfCapacity(f"switch: {MAX_PROMPTS} switches wait for their block")
        self._num_switching += 1
        try:
            async with self._switch_lock:
                yield
        finally:
            self._num_switching -= 1

    def schedule(self, switch: PendingSwitch) -> None:
        """Queue a switch; InvalidRequest if its block has started, or is beyond the end."""
        if switch.block is not None and switch.block < self.timeline.next_block:
            raise InvalidRequest(f"at_block: {switch.block} has started; next is {self.timeline.next_block}")
        end = self.timeline.end_block
        if switch.block is not None and end is not None and switch.block >= end:
            raise InvalidRequest(f"at_block: {switch.block} is not below {end}, where the session ends")
        self.switches.append(switch)
        self.switches.sort(key=lambda pending: -1 if pending.block is None else pending.block)

    def due_switch(self, starting: int | None) -> PendingSwitch | None:
        """Take the next switch that is due, given the block about to start."""
        if not self.switches:
            return None
        block = self.switches[0].block
        is_due = block is None or (starting is not None and block <= starting)
        return self.switches.pop(0) if is_due else None
