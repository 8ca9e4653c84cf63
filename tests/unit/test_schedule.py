"""Properties of the schedule: every pass once and in order, true receipts, nobody starves."""

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_core.config import EngineConfig, SwitchMode, WindowConfig, make
from cascade_core.schedule import (
    Candidate,
    Shape,
    SwitchReceipt,
    TickPlan,
    Timeline,
    Work,
    choose_session,
    context_blocks,
    engine_shape,
    plan_tick,
    recache_blocks,
    sight,
    starting_block,
    switch_prompt,
)
from tests.support import tiny_card

MODES: tuple[SwitchMode, ...] = ("immediate", "boundary", "recache")


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    num_passes = draw(st.integers(1, 6)) + 1
    window = draw(st.integers(1, 6))
    context = draw(st.none() | st.integers(1, window))
    return Shape(
        num_passes=num_passes,
        stagger=draw(st.integers(1, num_passes)),
        num_ranks=draw(st.integers(1, num_passes)),
        window=WindowConfig(
            block_frames=3,
            window_frames=3 * window,
            sink_frames=3 * draw(st.integers(0, 3)),
            context_window_frames=context and 3 * context,
        ),
    )


def run_to_end(timeline: Timeline, shape: Shape) -> list[TickPlan]:
    assert timeline.end_block is not None
    plans = []
    while not timeline.finished:
        plan, timeline = plan_tick(timeline, shape)
        assert plan is not None
        plans.append(plan)
    return plans


def closed_form(block: int, tick: int, shape: Shape, first: int = 0) -> int | None:
    """The pass of a block at a tick, by arithmetic: block b starts b * stagger ticks into the session."""
    pass_index = tick - (block - first) * shape.stagger
    return pass_index if 0 <= pass_index < shape.num_passes else None


@given(shape=shapes(), start=st.integers(0, 40), num_blocks=st.integers(1, 12))
@settings(deadline=None)
def test_each_pass_of_each_block_once_in_order_and_in_place(
    shape: Shape, start: int, num_blocks: int
) -> None:
    blocks = range(start, start + num_blocks)
    plans = run_to_end(Timeline(3, next_block=start, end_block=blocks.stop), shape)
    assert len(plans) == (num_blocks - 1) * shape.stagger + shape.num_passes
    for tick, plan in enumerate(plans):
        expected = {block: closed_form(block, tick, shape, start) for block in blocks}
        in_flight = {block: index for block, index in expected.items() if index is not None}
        assert {work.block: work.pass_index for work in plan.works} == in_flight
        assert plan.session == 3
        assert len(plan.ranks) == shape.num_ranks
        assert len(in_flight) <= ceil(shape.num_passes / shape.stagger) == shape.max_in_flight
        for rank, works in enumerate(plan.ranks):
            assert [work.block for work in works] == sorted(work.block for work in works)
            assert all(work.block % shape.num_ranks == rank for work in works)
            assert len(works) <= ceil(shape.max_in_flight / shape.num_ranks)
        finishing = [block for block, index in in_flight.items() if index == shape.num_passes - 2]
        assert [plan.emits] == (finishing or [None])
        assert not plan.recache
    assert [plan.emits for plan in plans if plan.emits is not None] == list(blocks)


@given(shape=shapes())
def test_steady_state_emits_a_block_every_stagger_ticks(shape: Shape) -> None:
    plans = run_to_end(Timeline(0, end_block=20), shape)
    ticks = [tick for tick, plan in enumerate(plans) if plan.emits is not None]
    assert {later - earlier for earlier, later in pairwise(ticks)} == {shape.stagger}
    assert ticks[0] == shape.num_passes - 2


def test_the_first_block_may_make_more_passes() -> None:
    """Its successor starts as if it had begun with the last P of them."""
    shape = Shape(2, 1, 2, WindowConfig(), num_extra_passes=3)
    plans = run_to_end(Timeline(0, end_block=3), shape)
    passes = [[(work.block, work.pass_index) for work in plan.works] for plan in plans]
    assert passes == [[(0, -3)], [(0, -2)], [(0, -1)], [(0, 0)], [(0, 1), (1, 0)], [(1, 1), (2, 0)], [(2, 1)]]
    assert [plan.emits for plan in plans] == [None, None, None, 0, 1, 2, None]
    timeline, touched_and_full = Timeline(0), []
    for _ in range(3):
        _, receipt = switch_prompt(timeline, shape, 1, "immediate")
        touched_and_full.append((receipt.first_block_touched, receipt.first_block_full))
        _, timeline = plan_tick(timeline, shape)
    assert touched_and_full == [(0, 0), (0, 1), (0, 1)]
    resumed = run_to_end(Timeline(0, next_block=4, end_block=5), shape)
    assert [plan.works[0].pass_index for plan in resumed] == [0, 1], "only the session's very first block"


def test_an_endless_timeline_is_never_finished() -> None:
    shape = Shape(5, 1, 5, WindowConfig())
    timeline = Timeline(0)
    for _ in range(50):
        plan, timeline = plan_tick(timeline, shape)
        assert plan is not None
        assert not timeline.finished


def test_a_finished_timeline_has_no_tick() -> None:
    shape = Shape(5, 2, 1, WindowConfig())
    timeline = Timeline(0, next_block=4, end_block=4)
    assert timeline.finished
    assert plan_tick(timeline, shape) == (None, timeline)
    assert starting_block(timeline, shape) is None


@given(shape=shapes(), num_blocks=st.integers(1, 8))
@settings(deadline=None)
def test_starting_block_foretells_the_next_tick(shape: Shape, num_blocks: int) -> None:
    timeline = Timeline(0, end_block=num_blocks)
    while not timeline.finished:
        foretold = starting_block(timeline, shape)
        plan, timeline = plan_tick(timeline, shape)
        assert plan is not None
        assert [work.block for work in plan.works if work.pass_index == 0] == (
            [] if foretold is None else [foretold]
        )


# Prompt switches


@dataclass
class History:
    """Which prompt each pass used, and the ticks themselves."""

    shape: Shape
    plans: list[TickPlan]
    prompts: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """block -> pass -> prompt, recache ticks left out."""

    def __post_init__(self) -> None:
        for plan in self.plans:
            for work in [] if plan.recache else plan.works:
                assert work.pass_index not in self.prompts[work.block], "a pass happens once"
                self.prompts[work.block][work.pass_index] = work.prompt

    def denoising(self, block: int) -> list[int]:
        return [self.prompts[block][index] for index in range(self.shape.num_passes - 1)]

    def receipt(self, prompt: int, end_block: int) -> SwitchReceipt:
        """The truth, seen afterwards: a block past the end stands for none."""
        blocks = sorted(self.prompts)
        touched = [block for block in blocks if prompt in self.denoising(block)]
        full = [block for block in blocks if set(self.prompts[block].values()) == {prompt}]
        return SwitchReceipt(min(touched, default=end_block), min(full, default=end_block))


def switched_run(
    shape: Shape, num_blocks: int, tick: int, mode: SwitchMode
) -> tuple[History, Timeline, SwitchReceipt]:
    """A session of `num_blocks` with one switch to prompt 1 before tick `tick`."""
    timeline, plans = Timeline(0, end_block=num_blocks), []
    for _ in range(tick):
        plan, timeline = plan_tick(timeline, shape)
        assert plan is not None
        plans.append(plan)
    before = timeline
    timeline, receipt = switch_prompt(timeline, shape, 1, mode)
    return History(shape, plans + run_to_end(timeline, shape)), before, receipt


@st.composite
def switches(draw: st.DrawFn) -> tuple[Shape, int, int, SwitchMode]:
    shape = draw(shapes())
    num_blocks = draw(st.integers(1, 10))
    num_ticks = (num_blocks - 1) * shape.stagger + shape.num_passes
    return shape, num_blocks, draw(st.integers(0, num_ticks - 1)), draw(st.sampled_from(MODES))


@given(switch=switches())
@settings(max_examples=400, deadline=None)
def test_receipts_tell_the_truth(switch: tuple[Shape, int, int, SwitchMode]) -> None:
    shape, num_blocks, tick, mode = switch
    history, before, receipt = switched_run(shape, num_blocks, tick, mode)
    assert receipt == history.receipt(1, num_blocks)
    assert receipt.first_block_touched <= receipt.first_block_full == before.next_block
    started = {work.block: work.pass_index for work in before.in_flight}
    for block, prompts in history.prompts.items():
        for pass_index, prompt in prompts.items():
            if block >= receipt.first_block_full:
                assert prompt == 1
            elif mode == "immediate":
                touched = receipt.first_block_touched <= block
                assert prompt == (touched and pass_index >= started[block])
            else:
                assert prompt == 0, "a block that has started keeps its prompt"


@given(switch=switches())
@settings(max_examples=200, deadline=None)
def test_only_recache_changes_the_ticks(switch: tuple[Shape, int, int, SwitchMode]) -> None:
    shape, num_blocks, tick, mode = switch
    history, before, _ = switched_run(shape, num_blocks, tick, mode)
    unswitched = run_to_end(Timeline(0, end_block=num_blocks), shape)

    def passes(plan: TickPlan) -> list[tuple[int, int]]:
        return [(work.block, work.pass_index) for work in plan.works]

    if mode != "recache":
        assert list(map(passes, history.plans)) == list(map(passes, unswitched))
        assert not any(plan.recache for plan in history.plans)
        return
    # Those in flight finish, nothing starts meanwhile, ...
    finishing = max((shape.num_passes - work.pass_index for work in before.in_flight), default=0)
    for plan in history.plans[tick : tick + finishing]:
        assert not plan.recache
        assert all(work.block < before.next_block for work in plan.works)
    # ... then the newest clean blocks are encoded again under the new prompt, once, ...
    recached = [index for index, plan in enumerate(history.plans) if plan.recache]
    goes_on = before.next_block < num_blocks and before.next_block > 0
    assert recached == ([tick + finishing] if goes_on else [])
    if not goes_on:
        return
    plan = history.plans[tick + finishing]
    newest = before.next_block - 1
    kept = shape.window.sink_blocks + shape.window.window_blocks
    assert [work.block for work in plan.works] == [
        block for block in range(num_blocks) if newest - kept < block <= newest
    ]
    assert {(work.pass_index, work.prompt) for work in plan.works} == {(shape.context_pass, 1)}
    assert plan.emits is None
    assert all(
        work.block % shape.num_ranks == rank for rank, works in enumerate(plan.ranks) for work in works
    )
    # ... then the session goes on like a fresh one.
    after = history.plans[tick + finishing + 1 :]
    fresh = run_to_end(Timeline(0, next_block=before.next_block, end_block=num_blocks), shape)
    assert list(map(passes, after)) == list(map(passes, fresh))


@given(shape=shapes(), moments=st.lists(st.tuples(st.integers(0, 12), st.sampled_from(MODES)), max_size=5))
@settings(max_examples=200, deadline=None)
def test_many_switches_in_a_row(shape: Shape, moments: list[tuple[int, SwitchMode]]) -> None:
    """Every pass still happens once; prompts never go back; the last receipt is true."""
    end_block = 30
    timeline, plans = Timeline(0, end_block=end_block), []
    receipt = SwitchReceipt(0, 0)
    for prompt, (gap, mode) in enumerate(moments, start=1):
        for _ in range(gap):
            plan, timeline = plan_tick(timeline, shape)
            plans += [plan] if plan else []
        timeline, receipt = switch_prompt(timeline, shape, prompt, mode)
    history = History(shape, plans + run_to_end(timeline, shape))
    assert sorted(history.prompts) == list(range(end_block))
    for block, prompts in history.prompts.items():
        assert list(prompts) == list(range(shape.num_passes)), "in order"
        assert sorted(prompts.values()) == list(prompts.values())
        following = history.prompts.get(block + 1)
        assert following is None or prompts[0] <= following[0]
    assert receipt == history.receipt(len(moments), end_block)
    assert sum(plan.recache for plan in history.plans) <= sum(mode == "recache" for _, mode in moments)


@pytest.mark.parametrize(
    ("set_back", "coming", "receipt"),
    [(0, [4, 3, 2, 1], (7, 10)), (1, [4, 2, 1, 0], (7, 9)), (2, [4, 1, 0], (7, 8)), (9, [4], (7, 7))],
)
def test_blocks_in_flight_go_back_at_an_immediate_switch(
    set_back: int, coming: list[int], receipt: tuple[int, int]
) -> None:
    """As many ticks bring no block then, and no more."""
    shape = replace(Shape(5, 1, 1, WindowConfig()), set_back=set_back)
    before = Timeline(0, end_block=20)
    for _ in range(10):
        before = plan_tick(before, shape)[1]
    after, actual = switch_prompt(before, shape, 1, "immediate")
    assert actual == SwitchReceipt(*receipt)
    assert [work.pass_index for work in after.in_flight] == coming
    plans = run_to_end(after, shape)
    assert [plan.emits for plan in plans if plan.emits is not None] == list(range(7, 20))
    assert len(plans) == len(run_to_end(before, shape)) + min(set_back, 3)
    modes: tuple[SwitchMode, ...] = ("boundary", "recache")
    for mode in modes:
        assert switch_prompt(before, shape, 1, mode)[0].in_flight == before.in_flight


@pytest.mark.parametrize("set_back", [1, 4])
@pytest.mark.parametrize("stagger", [1, 2, 5])
def test_a_switch_at_every_tick_does_not_hold_the_video_up(stagger: int, set_back: int) -> None:
    shape = replace(Shape(5, stagger, 1, WindowConfig()), set_back=set_back)
    timeline, num_blocks = Timeline(0), 0
    for prompt in range(1, 101):
        timeline, _ = switch_prompt(timeline, shape, prompt, "immediate")
        plan, timeline = plan_tick(timeline, shape)
        assert plan is not None
        num_blocks += plan.emits is not None
    assert num_blocks >= 100 // (2 * shape.num_passes)


def test_a_switch_before_the_first_block_touches_it_whole() -> None:
    shape = Shape(5, 1, 5, WindowConfig())
    for mode in MODES:
        timeline, receipt = switch_prompt(Timeline(0, end_block=3), shape, 1, mode)
        assert receipt == SwitchReceipt(0, 0)
        plans = run_to_end(timeline, shape)
        assert not any(plan.recache for plan in plans), "there is nothing to encode again"
        assert {work.prompt for plan in plans for work in plan.works} == {1}


# Priming


@given(shape=shapes(), start=st.integers(1, 30), num_blocks=st.integers(1, 4))
@settings(deadline=None)
def test_priming_comes_first_in_one_tick_and_in_order(shape: Shape, start: int, num_blocks: int) -> None:
    primed = tuple(Work(block, shape.context_pass, 0) for block in context_blocks(shape.window, start))
    timeline = Timeline(0, next_block=start, end_block=start + num_blocks, to_prime=primed)
    assert starting_block(timeline, shape) is None
    plans = run_to_end(timeline, shape)
    assert plans[0].works == list(primed)
    assert plans[0].emits is None
    assert not plans[0].recache
    assert all(
        work.block % shape.num_ranks == rank for rank, works in enumerate(plans[0].ranks) for work in works
    )
    rest = run_to_end(replace(timeline, to_prime=()), shape)
    assert plans[1:] == rest


@pytest.mark.parametrize("mode", MODES)
def test_a_switch_before_priming_leaves_the_primed_prompts(mode: SwitchMode) -> None:
    """Primed blocks carry the prompt they were made with; only a recache encodes them anew, afterwards."""
    shape = Shape(5, 1, 2, WindowConfig())
    primed = tuple(Work(block, shape.context_pass, 0) for block in range(3))
    timeline = Timeline(0, next_block=3, end_block=5, to_prime=primed)
    timeline, receipt = switch_prompt(timeline, shape, 1, mode)
    plans = run_to_end(timeline, shape)
    assert plans[0].works == list(primed)
    assert [plan.recache for plan in plans[1:3]] == [mode == "recache", False]
    assert receipt == SwitchReceipt(3, 3)
    assert {work.prompt for plan in plans[1:] for work in plan.works} == {1}


@given(shape=shapes(), start=st.integers(0, 30))
def test_context_blocks_are_the_sink_and_the_last_window(shape: Shape, start: int) -> None:
    window = shape.window
    reach = window.sink_blocks + window.window_blocks
    expected = [block for block in range(start) if block < window.sink_blocks or block >= start - reach]
    assert context_blocks(window, start) == expected


def test_a_primed_session_can_recache_at_once() -> None:
    """With a sink, recache reaches further back than the window that the session was opened with."""
    window = WindowConfig(block_frames=3, window_frames=9, sink_frames=3)
    assert set(recache_blocks(window, 10)) <= set(context_blocks(window, 10))


# What a pass sees


@given(shape=shapes(), tick=st.integers(0, 40), attention=st.sampled_from(["bidirectional", "causal"]))
@settings(max_examples=200, deadline=None)
def test_visible_in_flight(shape: Shape, tick: int, attention: str) -> None:
    plan = run_to_end(Timeline(0, end_block=12), shape)[: tick + 1][-1]
    window = shape.window
    for work in plan.works:
        is_context = work.pass_index == shape.num_passes - 1
        frames = window.context_window_frames if is_context else window.window_frames
        reach = (frames or window.window_frames) // window.block_frames
        expected = [
            other.block
            for other in plan.works
            if (
                work.block - reach < other.block <= work.block
                or (other.block <= work.block and other.block < window.sink_blocks)
                or (other.block > work.block and attention == "bidirectional" and not is_context)
            )
        ]
        assert sight(work, plan.works, shape, attention) == (work.block - reach + 1, expected)  # type: ignore[arg-type]


@given(shape=shapes(), tick=st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_a_window_that_counts_the_blocks_behind_holds_no_more_than_one_of_sequential(
    shape: Shape, tick: int
) -> None:
    """The blocks behind take the places of the oldest, but never that of the block right before."""
    plan = run_to_end(Timeline(0, end_block=12), shape)[: tick + 1][-1]
    counted = replace(shape, counts_behind=True)
    for work in plan.works:
        oldest, in_flight = sight(work, plan.works, counted, "bidirectional")
        before, all_in_flight = sight(work, plan.works, shape, "bidirectional")
        most = work.block - before + 1  # of its window
        behind = [block for block in in_flight if block > work.block]
        assert work.block - oldest + 1 + len(behind) == most
        assert work.block - oldest >= min(1, most - 1)
        assert behind == [block for block in all_in_flight if block > work.block][: max(0, most - 2)]
        assert sight(work, plan.works, counted, "causal") == sight(work, plan.works, shape, "causal")


def test_engine_shape_is_what_the_engine_is_set_to() -> None:
    card = tiny_card(rope="absolute")
    values = {"model": "tiny", "stagger": 2, "num_ranks": 3}
    usual = Shape(5, 2, 3, card.window, "bidirectional", set_back=2, counts_behind=True)
    assert engine_shape(make(EngineConfig, values), card) == usual
    changed = {"rope": "window", "inflight_attention": "causal"}
    changed |= {"switch_set_back": 0, "window_counts_behind": False}
    shape = engine_shape(make(EngineConfig, values | changed), card)
    assert (shape.inflight_attention, shape.set_back, shape.counts_behind) == ("causal", 0, False)
    assert shape.window == replace(card.window, rope="window")
    assert shape.window.max_blocks is None


# Several sessions


TICKS_AHEAD = 2
BLOCK_S = 0.75


@dataclass
class Viewer:
    """A session as the engine sees it, and what became of it."""

    number: int
    credit: int | None
    timeline: Timeline
    deadline_s: float = 0.0
    emitted: int = 0
    waited: int = 0
    """Ticks given to others in a row while this one had credit."""
    patience: float = 0.0
    """How many of those it must be able to bear; see `Stage`."""


class Stage:
    """The engine's loop without ranks: choose, plan two ticks ahead, emit, move the deadline."""

    def __init__(self, shape: Shape, credits: list[int | None], tick_s: float) -> None:
        self.shape = shape
        self.tick_s = tick_s
        self.now = 0.0
        self.viewers = [Viewer(n, credit, Timeline(n)) for n, credit in enumerate(credits)]
        self.ahead: deque[TickPlan] = deque()
        self.served: Counter[int] = Counter()

    def step(self) -> None:
        while len(self.ahead) < TICKS_AHEAD and (plan := self.plan()):
            self.ahead.append(plan)
        self.now += self.tick_s
        if self.ahead:
            self.emit(self.ahead.popleft())

    def plan(self) -> TickPlan | None:
        chosen = choose_session(Candidate(v.number, v.deadline_s, v.credit != 0) for v in self.viewers)
        ready = {viewer.number for viewer in self.viewers if viewer.credit != 0}
        assert (chosen in ready) if ready else (chosen is None)
        if chosen is None:
            return None
        self.count_waiting(chosen)
        viewer = self.viewers[chosen]
        plan, viewer.timeline = plan_tick(viewer.timeline, self.shape)
        assert plan is not None
        self.served[chosen] += 1
        if plan.emits is not None and viewer.credit is not None:
            viewer.credit -= 1
        return plan

    def count_waiting(self, chosen: int) -> None:
        """A viewer waits while others catch up with its lead, and a block each that was under way."""
        for viewer in self.viewers:
            if viewer.number == chosen or viewer.credit == 0:
                viewer.waited = 0
                continue
            if viewer.waited == 0:
                lead = max(0.0, viewer.deadline_s - self.now) / BLOCK_S
                blocks = ceil(lead) + 3
                viewer.patience = (len(self.viewers) - 1) * (blocks * self.shape.num_passes + TICKS_AHEAD)
            viewer.waited += 1
            assert viewer.waited <= viewer.patience, f"session {viewer.number} starves"

    def emit(self, plan: TickPlan) -> None:
        if plan.emits is None:
            return
        viewer = self.viewers[plan.session]
        viewer.deadline_s = max(viewer.deadline_s, self.now) + BLOCK_S
        viewer.emitted += 1


@given(
    shape=shapes(),
    credits=st.lists(st.none() | st.integers(0, 6), min_size=1, max_size=5),
    tick_s=st.sampled_from([0.001, 0.05, 0.2, 1.0, 5.0]),
    grants=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4), st.integers(1, 5)), max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_nobody_starves_and_nobody_is_served_without_credit(
    shape: Shape, credits: list[int | None], tick_s: float, grants: list[tuple[int, int, int]]
) -> None:
    stage = Stage(shape, credits, tick_s)
    granted = list(credits)
    for gap, number, amount in [*grants, (200, 0, 1)]:
        for _ in range(gap):
            stage.step()
        viewer = stage.viewers[number % len(credits)]
        if viewer.credit is not None:
            viewer.credit += amount
            granted[viewer.number] += amount  # type: ignore[operator]
    for _ in range(TICKS_AHEAD):
        while stage.ahead:
            stage.emit(stage.ahead.popleft())
    for viewer, amount in zip(stage.viewers, granted, strict=True):
        if amount is not None:
            assert viewer.emitted + (viewer.credit or 0) == amount
        if amount == 0:
            assert stage.served[viewer.number] == 0


@given(shape=shapes(), num_sessions=st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_an_overloaded_stage_shares_evenly(shape: Shape, num_sessions: int) -> None:
    stage = Stage(shape, [None] * num_sessions, tick_s=2.0)
    for _ in range(num_sessions * (shape.num_passes + 20 * shape.stagger)):
        stage.step()
    emitted = [viewer.emitted for viewer in stage.viewers]
    assert max(emitted) - min(emitted) <= 2
    assert min(emitted) >= 10


@given(shape=shapes(), num_sessions=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_stage_that_is_fast_enough_lets_nobody_run_dry(shape: Shape, num_sessions: int) -> None:
    """At 60 % load, with three blocks of credit kept up by playback, no block comes after its time."""
    tick_s = 0.6 * BLOCK_S / (num_sessions * shape.stagger)
    stage = Stage(shape, [3] * num_sessions, tick_s)
    settled = num_sessions * (shape.num_passes + 4 * shape.stagger)
    played: Counter[int] = Counter()
    for step in range(settled + 60 * shape.stagger * num_sessions):
        stage.step()
        for viewer in stage.viewers:
            on_screen = max(0, viewer.emitted - ceil((viewer.deadline_s - stage.now) / BLOCK_S))
            if on_screen > played[viewer.number]:
                assert viewer.credit is not None
                viewer.credit += on_screen - played[viewer.number]
                played[viewer.number] = on_screen
            if step > settled:
                assert viewer.deadline_s >= stage.now, f"session {viewer.number} ran dry"


def test_choose_session() -> None:
    assert choose_session([]) is None
    assert choose_session([Candidate(1, 0.0, False)]) is None
    assert choose_session([Candidate(1, 2.0, True), Candidate(2, 1.0, True), Candidate(3, 0.0, False)]) == 2
    assert choose_session([Candidate(2, 1.0, True), Candidate(1, 1.0, True)]) == 1, "ties by age"
