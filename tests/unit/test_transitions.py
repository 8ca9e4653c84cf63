"""Gradual switches: which prompt each pass has, and the same embeddings wherever a session is opened."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cascade_core.arrays import Array
from cascade_core.config import SwitchMode, WindowConfig
from cascade_core.engine.session import PendingSwitch, PromptApplied, Session
from cascade_core.errors import InvalidPrompt, InvalidRequest
from cascade_core.model.mixing import between
from cascade_core.prompts import (
    MAX_MIXED_PROMPTS,
    MAX_TRANSITION_BLOCKS,
    Prompt,
    Transition,
    WeightedPrompt,
    check_prompt,
    check_transition,
    readable,
)
from cascade_core.ranks.messages import Embedding, NewPrompt
from cascade_core.request import SessionRequest, course_entries
from cascade_core.schedule import (
    Shape,
    TickPlan,
    Timeline,
    context_blocks,
    plan_tick,
    starting_block,
    switch_prompt,
)
from tests.unit.test_config import card_with
from tests.unit.test_schedule import MODES, History, run_to_end, shapes

TRANSITIONS = st.builds(Transition, st.integers(1, 6), st.sampled_from(["linear", "slerp"]))


def rows_of(text: str) -> Array:
    """An imagined embedding; its length depends on the text."""
    generator = np.random.default_rng(list(text.encode()))
    return generator.standard_normal((1 + len(text) % 4, 3)).astype(np.float32)


def same(one: Array, other: Array) -> bool:
    most = max(len(one), len(other))
    one, other = (np.pad(rows, ((0, most - len(rows)), (0, 0))) for rows in (one, other))
    return np.allclose(one, other, atol=1e-6)


def expected_rows(block: int, prompts: Mapping[int, str], transitions: Mapping[int, Transition]) -> Array:
    """What the documents say: a transition sets out from what the block before it has."""
    entry = max(begin for begin in prompts if begin <= max(0, block))
    rows, transition = rows_of(prompts[entry]), transitions.get(entry)
    step = block - entry + 1
    if transition is None or entry == 0 or step > transition.num_blocks:
        return rows
    origin = expected_rows(entry - 1, prompts, transitions)
    return between(origin, rows, step / (transition.num_blocks + 1), transition.interpolation)


def opened(request: SessionRequest, shape: Shape) -> tuple[Session, dict[int, NewPrompt]]:
    """A session without ranks, and the embeddings that they would have, by number."""
    session = Session(Mock(), 1, replace(request, stagger=shape.stagger, inflight_attention="causal"), shape)
    texts = request.prompts
    return session, session.set_prompts(
        {block: rows_of(str(texts[block])) for block in course_entries(request)}
    )


class Ranks:
    """What each rank has of the embeddings, as `AddPrompt` and the runner's forgetting leave it."""

    def __init__(self, session: Session, begun: Mapping[int, NewPrompt]) -> None:
        self.session = session
        self.rows = [dict(begun) for _ in range(session.shape.num_ranks)]
        self.most = len(begun)
        """Prompts that a rank had at once."""
        self.seen: dict[int, list[Array]] = {}
        """By block, the embedding of each of its passes, recache ticks left out."""

    def tick(self) -> TickPlan | None:
        plan, self.session.timeline = plan_tick(self.session.timeline, self.session.shape)
        if plan is None:
            return None
        oldest = min(work.prompt for work in plan.works)
        for mine, new, works in zip(self.rows, self.session.take_prompts(plan), plan.ranks, strict=True):
            assert not new.keys() & mine.keys(), "nothing is sent twice"
            for number, prompt in new.items():
                for gone in prompt.forget:
                    del mine[gone]
                mine[number] = prompt
                self.most = max(self.most, len(mine))
            for work in works:
                if not plan.recache:
                    self.seen.setdefault(work.block, []).append(mine[work.prompt].rows)
            for number in [number for number in mine if number < oldest]:
                del mine[number]
        return plan


@st.composite
def timelines(draw: st.DrawFn) -> tuple[dict[int, str], dict[int, Transition]]:
    blocks = draw(st.lists(st.integers(1, 20), unique=True, max_size=8))
    prompts = {0: "first", **{block: f"prompt {block}" for block in blocks}}
    return prompts, {block: draw(TRANSITIONS) for block in blocks if draw(st.booleans())}


@given(
    timeline=timelines(), start=st.integers(0, 24), num_ranks=st.sampled_from([1, 2, 5]),
    stagger=st.sampled_from([1, 2, 5]), sink=st.integers(0, 1),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_wherever_it_is_opened_each_block_has_what_it_would_have_had(
    timeline: tuple[dict[int, str], dict[int, Transition]],
    start: int,
    num_ranks: int,
    stagger: int,
    sink: int,
) -> None:
    """Primed blocks and new ones: the journal's entries are enough, in the middle of transitions too."""
    prompts, transitions = timeline
    shape = Shape(5, stagger, num_ranks, WindowConfig(window_frames=12, sink_frames=3 * sink))
    context = dict.fromkeys(context_blocks(shape.window, start))
    request = SessionRequest(
        prompts,
        transitions,
        start_block=start,
        context=context,
        num_blocks=6,  # type: ignore[arg-type]
    )
    session, begun = opened(request, shape)
    for block, text in sorted(prompts.items()):
        if block > start:
            embedding, transition = Embedding(rows_of(text)), transitions.get(block)
            session.switches.append(PendingSwitch(block, "", embedding, "boundary", None, transition))
    ranks = Ranks(session, begun)
    while True:
        while switch := session.due_switch(starting_block(session.timeline, session.shape)):
            session.apply(switch)
        if ranks.tick() is None:
            break
    assert sorted(ranks.seen) == sorted([*context, *range(start, start + 6)])
    for block, passes in ranks.seen.items():
        wanted = expected_rows(block, prompts, transitions)
        assert all(same(rows, wanted) for rows in passes), block


EACH_BLOCK_ITS_OWN: tuple[dict[int, str], dict[int, Transition]] = (
    {0: "first"} | dict(enumerate("abcdefg", 6)),
    dict.fromkeys(range(6, 13), Transition(1)),
)
AT_ONCE_OVER_5: tuple[SwitchMode, Transition] = "immediate", Transition(5)


@given(
    timeline=timelines(), start=st.integers(0, 24), sink=st.integers(0, 1), set_back=st.integers(0, 2),
    num_ranks=st.sampled_from([1, 2, 5]), stagger=st.sampled_from([1, 2, 5]),
    switches=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(MODES), st.none() | TRANSITIONS), max_size=15
    ),
)  # fmt: skip
@example(EACH_BLOCK_ITS_OWN, 12, 1, 0, 1, 1, [])
@example(({0: "first"}, {}), 0, 0, 0, 1, 1, [(5, *AT_ONCE_OVER_5), *[(1, *AT_ONCE_OVER_5)] * 6])
@settings(max_examples=100, deadline=None)
def test_no_rank_has_more_text_caches_than_its_memory_is_counted_for(
    timeline: tuple[dict[int, str], dict[int, Transition]],
    start: int,
    sink: int,
    set_back: int,
    num_ranks: int,
    stagger: int,
    switches: list[tuple[int, SwitchMode, Transition | None]],
) -> None:
    """Whatever comes, at whichever tick; opened in the middle of a transition, each primed block may have its
    own."""
    prompts, transitions = timeline
    window = {"window_frames": 12, "sink_frames": 3 * sink}
    card = card_with(**{f"window__{name}": value for name, value in window.items()})
    shape = Shape(5, stagger, num_ranks, WindowConfig(**window), set_back=set_back)
    context: Any = dict.fromkeys(context_blocks(shape.window, start))
    session, begun = opened(SessionRequest(prompts, transitions, start_block=start, context=context), shape)
    ranks = Ranks(session, begun)
    for gap, mode, transition in [*switches, (30, "boundary", None)]:
        for _ in range(gap):
            ranks.tick()
        session.apply(PendingSwitch(None, "", Embedding(rows_of("new")), mode, None, transition))
    assert ranks.most <= card.max_text_caches


@given(
    shape=shapes(), tick=st.integers(0, 30), mode=st.sampled_from(MODES), num_mixed=st.integers(1, 5),
    num_blocks=st.integers(1, 10),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_each_block_has_its_own_step_and_receipts_tell_the_truth(
    shape: Shape, tick: int, mode: SwitchMode, num_mixed: int, num_blocks: int
) -> None:
    timeline, plans = Timeline(0, end_block=num_blocks), []
    for _ in range(tick):
        plan, timeline = plan_tick(timeline, shape)
        plans += [plan] if plan else []
    before = timeline
    timeline, receipt = switch_prompt(timeline, shape, 10, mode, num_mixed)
    later = run_to_end(timeline, shape)
    history = History(shape, plans + later)
    first = receipt.first_block_touched
    assert receipt.last_block_mixed == first + num_mixed - 1
    assert receipt.first_block_full == max(before.next_block, first + num_mixed)
    started = {work.block: work.pass_index for work in before.in_flight}
    for block, prompts in history.prompts.items():
        for pass_index, prompt in prompts.items():
            turns = block >= first and pass_index >= started.get(block, 0) and block not in finished(before)
            assert prompt == (10 + min(block - first, num_mixed) if turns else 0), (block, pass_index)
    touched = [block for block in history.prompts if any(number >= 10 for number in history.denoising(block))]
    assert min(touched, default=first) == first
    # Between two mixes lies a recache, under what comes next; no other mode takes a tick more.
    recached = [plan for plan in later if plan.recache]
    if mode == "recache":
        clean = max(1, before.next_block)
        due = [block for block in range(clean, first + num_mixed + 1) if block < num_blocks]
        wanted = [10 + min(block - first, num_mixed) for block in due]
        assert [plan.works[0].prompt for plan in recached] == wanted
    else:
        unswitched = run_to_end(before, shape)
        assert not recached
        assert [[(w.block, w.pass_index) for w in plan.works] for plan in later] == [
            [(w.block, w.pass_index) for w in plan.works] for plan in unswitched
        ]


def finished(timeline: Timeline) -> set[int]:
    """Blocks that had made all their passes."""
    return set(range(timeline.next_block)) - {work.block for work in timeline.in_flight}


def test_a_second_switch_sets_out_from_the_mix_as_it_is_then() -> None:
    shape = Shape(5, 5, 1, WindowConfig())
    session, begun = opened(SessionRequest({0: "first"}, num_blocks=9), shape)
    ranks = Ranks(session, begun)
    switches = {2: ("second", Transition(4)), 4: ("third", Transition(2, "slerp"))}
    while True:
        at = session.timeline.next_block if not session.timeline.in_flight else None
        if at in switches:
            text, transition = switches.pop(at)
            session.apply(PendingSwitch(None, text, Embedding(rows_of(text)), "boundary", None, transition))
        if ranks.tick() is None:
            break
    first, second, third = map(rows_of, ("first", "second", "third"))
    then = between(first, second, 2 / 5, "linear")  # of block 3
    wanted = [first, first, between(first, second, 1 / 5, "linear"), then]
    wanted += [
        between(then, third, 1 / 3, "slerp"),
        between(then, third, 2 / 3, "slerp"),
        third,
        third,
        third,
    ]
    for block, rows in enumerate(wanted):
        assert all(same(seen, rows) for seen in ranks.seen[block]), block
    applied = [event for event in list(session._events._queue) if isinstance(event, PromptApplied)]  # type: ignore[attr-defined]
    assert applied == [
        PromptApplied("second", 2, 6, last_block_mixed=5), PromptApplied("third", 4, 6, last_block_mixed=5)
    ]  # fmt: skip


def test_the_very_first_block_is_never_mixed() -> None:
    """It has nothing to set out from, and a journal could not tell from what."""
    shape = Shape(5, 1, 1, WindowConfig())
    timeline = plan_tick(Timeline(0), shape)[1]
    timeline, receipt = switch_prompt(timeline, shape, 1, "immediate", 2)
    assert (receipt.first_block_touched, receipt.last_block_mixed, receipt.first_block_full) == (1, 2, 3)
    assert [work.prompt for work in timeline.in_flight] == [0]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("  ", "prompt is empty"),
        ((), f"prompt mixes 0 prompts, not 1 to {MAX_MIXED_PROMPTS}"),
        (tuple([WeightedPrompt("a")] * 9), f"prompt mixes 9 prompts, not 1 to {MAX_MIXED_PROMPTS}"),
        ((WeightedPrompt("a"), WeightedPrompt(" ")), "prompt is empty"),
        ((WeightedPrompt("a", 0.0),), "prompt has a weight of 0.0, not above 0 and up to 1000"),
        ((WeightedPrompt("a", float("nan")),), "prompt has a weight of nan, not above 0 and up to 1000"),
        ((WeightedPrompt("a", -1.0),), "prompt has a weight of -1.0, not above 0 and up to 1000"),
    ],
)
def test_bad_prompts(prompt: Prompt, message: str) -> None:
    with pytest.raises(InvalidPrompt, match=f"^{message}$"):
        check_prompt("prompt", prompt)


@pytest.mark.parametrize("num_blocks", [0, -1, MAX_TRANSITION_BLOCKS + 1])
def test_bad_transitions(num_blocks: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"^transition.num_blocks: {num_blocks} is not in 1\.\.64$"):
        check_transition("transition", Transition(num_blocks))


def test_readable() -> None:
    assert readable("a red circle") == "a red circle"
    assert readable((WeightedPrompt("one", 1), WeightedPrompt("other", 3))) == "75% other + 25% one"
