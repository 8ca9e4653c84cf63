"""Which block does which pass on which rank at a tick. Pure functions on frozen data; imports no torch.

A block makes P passes; the last, the context pass, writes its clean K/V. Block i + 1 starts once block i has
made `stagger` passes, and all blocks in flight advance together, one pass a tick. So a session's ticks are
one fixed sequence, whatever the timing of credits or other sessions: the same seed gives the same video.
Source: Block Cascading (arXiv 2511.20426).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cascade_core.config import EngineConfig, InflightAttention, ModelCard, SwitchMode, WindowConfig

MAX_CUTS = 1024
"""That a timeline keeps, the newest ones: as many as a session with an end of its positions can have."""


@dataclass(frozen=True)
class Shape:
    """What a session's schedule follows from. Shapes on one engine differ in stagger and attention alone."""

    num_passes: int
    """P: denoising passes and the context pass."""
    stagger: int
    """Passes a block makes before its successor starts, 1..P."""
    num_ranks: int
    """W, 1..P. Block b lives on rank b mod W, which spreads any run of blocks evenly."""
    window: WindowConfig
    inflight_attention: InflightAttention = "bidirectional"
    set_back: int = 0
    """Passes that blocks in flight go back by at an `immediate` switch."""
    counts_behind: bool = False
    """Whether the blocks behind that a pass sees count towards its window."""
    num_extra_passes: int = 0
    """Passes that block 0 makes before its last P: their numbers are below 0."""

    def first_pass(self, block: int) -> int:
        """Number of the pass that a block begins with."""
        return -self.num_extra_passes if block == 0 else 0

    @property
    def context_pass(self) -> int:
        return self.num_passes - 1

    @property
    def max_in_flight(self) -> int:
        return -(-self.num_passes // self.stagger)


def engine_shape(config: EngineConfig, card: ModelCard) -> Shape:
    """The shape of sessions that ask for no other."""
    window = replace(card.window, rope=config.rope) if config.rope else card.window
    num_passes = card.sampling.num_passes
    return Shape(
        num_passes,
        config.stagger,
        config.num_ranks,
        window,
        config.inflight_attention,
        config.switch_set_back,
        config.window_counts_behind,
        card.sampling.num_extra_passes,
    )


@dataclass(frozen=True)
class Work:
    """One pass of one block."""

    block: int
    pass_index: int
    """0 is the noisiest, but for passes that block 0 may make before it; P - 1 is the context pass."""
    prompt: int
    """Number of the prompt within its session; grows with every switch."""
    pinned: int | None = None
    """The block that the shot before it, or its own, began with, after a cut: it stays in view. None: there
    was no cut, or it lies in the sink. In a recache, all have that of the block to come."""
    num_cuts: int = 0
    """Cuts up to this block, itself included."""


@dataclass(frozen=True)
class TickPlan:
    """One joint forward of all blocks in flight of one session."""

    session: int
    ranks: tuple[tuple[Work, ...], ...]
    """Per rank its work, by ascending block."""
    emits: int | None = None
    """The block whose latents are clean after this tick."""
    recache: bool = False
    """LongLive's: clean blocks encoded anew, unmasked among themselves; see `cached_blocks`."""
    inflight_attention: InflightAttention = "bidirectional"
    """The session's."""

    @property
    def works(self) -> list[Work]:
        return sorted((work for rank in self.ranks for work in rank), key=lambda work: work.block)


@dataclass(frozen=True)
class Timeline:
    """Where one session is: immutable, advanced by `plan_tick` and `switch_prompt`."""

    session: int
    next_block: int = 0
    """The block that starts next."""
    end_block: int | None = None
    """No block from here on is started; None: endless."""
    prompt: int = 0
    """Prompt of the blocks that start from now on; in a transition, of its first block."""
    first_mixed: int = 0
    """The first block of the latest transition."""
    num_mixed: int = 0
    """Its blocks, each with a prompt of its own, and so has the one after them; 0: it was none."""
    prompt_before: int = 0
    """Of a block that starts before `first_mixed`: `first_own`, where the transition came before it."""
    in_flight: tuple[Work, ...] = ()
    """Each block's coming pass, oldest block first."""
    to_prime: tuple[Work, ...] = ()
    """Context passes of given clean blocks, done first, in one tick."""
    recache: bool = False
    """LongLive's switch: let blocks in flight finish, re-encode the window, then start the next block."""
    recache_to: int = 0
    """Each block up to this one waits for a recache, as the transition goes."""
    settled_from: int = 0
    """Blocks below this had started when some were last set back."""
    cuts: tuple[int, ...] = ()
    """Blocks that shots began with, ascending, the session's first shot left out."""
    first_own: int = 0
    """The first block that the first prompt is for: 0, or behind a clip that the session goes on from."""

    @property
    def finished(self) -> bool:
        return not self.in_flight and not self.to_prime and self.next_block == self.end_block

    def prompt_of(self, block: int) -> int:
        """Number of the prompt that a block has which starts now, or turns to the latest prompt."""
        step = min(block - self.first_mixed, self.num_mixed)
        return self.prompt + step if step >= 0 else self.prompt_before


@dataclass(frozen=True)
class SwitchReceipt:
    """Where a prompt switch shows."""

    first_block_touched: int
    """The first block with a pass under the new prompt that still changes its picture."""
    first_block_full: int
    """The first block made under the new prompt alone, from its first pass on."""
    last_block_mixed: int | None = None
    """The last block of the transition; None: there was none."""


def recache_blocks(window: WindowConfig, next_block: int) -> list[int]:
    """Clean blocks that LongLive re-encodes at a switch: the newest sink + window frames, or all."""
    return list(range(max(0, next_block - window.sink_blocks - window.window_blocks), next_block))


def cached_blocks(plan: TickPlan, shape: Shape) -> list[int]:
    """Blocks whose clean keys and values a tick leaves in the cache.

    A recache that does not encode all there is keeps the sink as it was. The sink then takes the place of as
    many of the oldest re-encoded blocks, whose new keys nobody keeps or sees; a pinned block that is older
    than the others takes that of one more.
    Source: LongLive v1.0, `_recache_after_switch` with `global_sink`.
    """
    blocks = [work.block for work in plan.works if work.pass_index == shape.context_pass]
    if not plan.recache or blocks[0] == 0:
        return blocks
    pinned, blocks = plan.works[0].pinned, blocks[shape.window.sink_blocks :]
    return blocks[1:] if pinned is not None and pinned < blocks[0] else blocks


def context_blocks(window: WindowConfig, next_block: int, cuts: Sequence[int] = ()) -> list[int]:
    """Clean blocks that a session opened at `next_block` is primed with: the sink, the first block of the
    newest shot, and all that the window and a recache right after can reach. `cuts`: as a timeline's."""
    sink = range(min(window.sink_blocks, next_block))
    pinned = cuts[: bisect_left(cuts, next_block)][-1:]
    return sorted({*sink, *pinned, *recache_blocks(window, next_block)})


def work_on(timeline: Timeline, shape: Shape, block: int, pass_index: int, prompt: int) -> Work:
    """A pass of a block of this session."""
    cuts = timeline.cuts
    before = bisect_left(cuts, block)
    pinned = cuts[before - 1] if before and cuts[before - 1] >= shape.window.sink_blocks else None
    return Work(block, pass_index, prompt, pinned, bisect_right(cuts, block))


def plan_tick(timeline: Timeline, shape: Shape) -> tuple[TickPlan | None, Timeline]:
    """The session's next tick and its state after it; None when the session has nothing left to do."""
    if timeline.to_prime:
        return _plan(timeline, shape, timeline.to_prime), replace(timeline, to_prime=())
    if timeline.recache and not timeline.in_flight:
        blocks = recache_blocks(shape.window, timeline.next_block)
        following = work_on(
            timeline, shape, timeline.next_block, shape.context_pass, timeline.prompt_of(timeline.next_block)
        )
        works = [
            replace(following, block=block, num_cuts=bisect_right(timeline.cuts, block)) for block in blocks
        ]
        after = replace(timeline, recache=False)
        return (_plan(timeline, shape, works, recache=True), after) if works else plan_tick(after, shape)
    timeline = _start_block(timeline, shape)
    if not timeline.in_flight:
        return None, timeline
    plan = _plan(timeline, shape, timeline.in_flight)
    advanced = (replace(work, pass_index=work.pass_index + 1) for work in timeline.in_flight)
    left = tuple(work for work in advanced if work.pass_index < shape.num_passes)
    return plan, replace(timeline, in_flight=left)


def switch_prompt(
    timeline: Timeline, shape: Shape, prompt: int, mode: SwitchMode, num_mixed: int = 0
) -> tuple[Timeline, SwitchReceipt]:
    """Apply a switch between two ticks; the modes: docs/engine.md.

    Over `num_mixed` blocks it is gradual: the first block touched has the prompt of this number, those behind
    it have those that follow, up to `prompt + num_mixed`, which is the new one. The session's first own block
    is never mixed: it has no prompt before its own. A cut begins a new shot; the very first block begins one
    anyway.
    """
    assert not (num_mixed and mode == "cut"), "a shot begins with its prompt"
    if mode == "immediate":
        timeline = _set_back(timeline, shape)
    first = full = timeline.next_block
    if mode == "immediate":
        turning = [work for work in timeline.in_flight if work.pass_index < shape.context_pass]
        first = min((work.block for work in turning), default=first)
        untouched = (work.block for work in turning if work.pass_index == shape.first_pass(work.block))
        full = min(untouched, default=full)
    if num_mixed:
        first = max(timeline.first_own + 1, first)
        full = max(full, first + num_mixed)
    after = replace(
        timeline,
        prompt=prompt,
        first_mixed=first,
        num_mixed=num_mixed,
        prompt_before=timeline.prompt_of(first - 1),
        recache=timeline.recache or mode == "recache",
        recache_to=first + num_mixed if mode == "recache" else 0,
        cuts=_with_cut(timeline.cuts, first) if mode == "cut" and first else timeline.cuts,
    )
    # A block left with its context pass keeps its prompt: what is cached fits what was shown, and a journal
    # of receipts finds the same cache again.
    in_flight = tuple(
        replace(work, prompt=after.prompt_of(work.block))
        if mode == "immediate" and work.pass_index < shape.context_pass and work.block >= first
        else work
        for work in timeline.in_flight
    )
    receipt = SwitchReceipt(first, full, first + num_mixed - 1 if num_mixed else None)
    return replace(after, in_flight=in_flight), receipt


def _with_cut(cuts: tuple[int, ...], block: int) -> tuple[int, ...]:
    return tuple(sorted({*cuts, block}))[-MAX_CUTS:]


def _set_back(timeline: Timeline, shape: Shape) -> Timeline:
    """Blocks in flight are to make their last passes again; one that has not made as many starts anew later.

    Not while a block that was set back is still in flight, or a switch at every tick would hold the video up
    for ever.
    """
    num_denoising = sum(work.pass_index < shape.context_pass for work in timeline.in_flight)
    if not shape.set_back or timeline.next_block - num_denoising < timeline.settled_from:
        return timeline
    back = (
        work
        if work.pass_index == shape.context_pass
        else replace(work, pass_index=work.pass_index - shape.set_back)
        for work in timeline.in_flight
    )
    kept = tuple(work for work in back if work.pass_index >= shape.first_pass(work.block))
    next_block = timeline.next_block - (len(timeline.in_flight) - len(kept))
    return replace(timeline, in_flight=kept, next_block=next_block, settled_from=timeline.next_block)


def starting_block(timeline: Timeline, shape: Shape) -> int | None:
    """The block that would start in the coming tick; None: none would."""
    return timeline.next_block if _can_start(timeline, shape) else None


@dataclass(frozen=True)
class Candidate:
    """A session that could take the next tick."""

    session: int
    deadline_s: float
    """When its next block is due on the viewer's screen."""
    has_credit: bool


def choose_session(candidates: Iterable[Candidate]) -> int | None:
    """The session with credit whose playback deadline is nearest."""
    ready = [candidate for candidate in candidates if candidate.has_credit]
    best = min(ready, key=lambda candidate: (candidate.deadline_s, candidate.session), default=None)
    return best.session if best else None


def sight(
    work: Work, works: Iterable[Work], shape: Shape, attention: InflightAttention
) -> tuple[int, list[int]]:
    """What this pass sees: the first block of its window (the sink comes besides; may be negative), and of
    `works`, by ascending block, those in flight, itself included.

    A context pass never sees the noisier blocks behind it, so cached K/V do not depend on noisy futures. A
    pinned block that the window has left behind takes the place of its oldest.
    """
    is_context = work.pass_index == shape.context_pass
    num_blocks = shape.window.context_window_blocks if is_context else shape.window.window_blocks
    sees_behind = attention == "bidirectional" and not is_context
    behind = [other.block for other in works if other.block > work.block and sees_behind]
    if shape.counts_behind:
        kept = 2 if work.pinned is None else 3  # itself, the one before it, and the pinned one
        behind = behind[: max(0, num_blocks - kept)]  # the nearest
        num_blocks -= len(behind)
    oldest = work.block - num_blocks + 1
    if work.pinned is not None and work.pinned < oldest:
        oldest += 1

    def is_in_view(block: int) -> bool:
        return block >= oldest or block < shape.window.sink_blocks or block == work.pinned

    before = [other.block for other in works if other.block <= work.block and is_in_view(other.block)]
    return oldest, before + behind


def _can_start(timeline: Timeline, shape: Shape) -> bool:
    youngest = timeline.in_flight[-1].pass_index if timeline.in_flight else shape.stagger
    held = timeline.to_prime or timeline.recache or timeline.next_block == timeline.end_block
    return not held and youngest >= shape.stagger


def _start_block(timeline: Timeline, shape: Shape) -> Timeline:
    if not _can_start(timeline, shape):
        return timeline
    block = timeline.next_block
    first_pass, prompt = shape.first_pass(block), timeline.prompt_of(block)
    return replace(
        timeline,
        in_flight=(*timeline.in_flight, work_on(timeline, shape, block, first_pass, prompt)),
        next_block=block + 1,
        recache=block < timeline.recache_to,
    )


def _plan(timeline: Timeline, shape: Shape, works: Sequence[Work], recache: bool = False) -> TickPlan:
    ranks = tuple(
        tuple(work for work in works if work.block % shape.num_ranks == rank)
        for rank in range(shape.num_ranks)
    )
    last_denoising = shape.context_pass - 1
    emits = next((work.block for work in works if work.pass_index == last_denoising), None)
    return TickPlan(timeline.session, ranks, emits, recache, shape.inflight_attention)
