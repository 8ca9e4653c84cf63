"""A session that is opened again in the middle of transitions: what its record tells the next stage makes the
engine there give every block the embedding that it would have had."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
from google.protobuf.message import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cascade.v1.session_pb2 import SessionSpec
from cascade.v1.stage_pb2 import GenerateRequest, ModelInfo
from cascade_core.arrays import Array
from cascade_core.config import SwitchMode, WindowConfig
from cascade_core.engine.session import PendingSwitch, PromptApplied, Session
from cascade_core.model.mixing import between, mix
from cascade_core.prompts import Prompt, Transition, WeightedPrompt, parts
from cascade_core.ranks.messages import Embedding
from cascade_core.request import SessionRequest, course_entries
from cascade_core.schedule import Shape, context_blocks, plan_tick, starting_block
from services.gateway.base.settings import Settings
from services.gateway.journal import Beginning, LatentsMade, Limits, NewSession, PromptAccepted, Record
from services.gateway.journal import PromptApplied as Applied
from services.gateway.journal.record import new_record
from services.gateway.journal.rules import apply
from services.gateway.peers.count import Count
from services.gateway.peers.stage_stream import StageStream, applied_ahead
from services.gateway.peers.stage_stream import context_blocks as kept_blocks
from services.stage.opening import to_request

WINDOW = WindowConfig(window_frames=12, sink_frames=3)
MODEL = ModelInfo(model="demo", sink_blocks=1, context_blocks=5)
MIX = (WeightedPrompt("one", 1.0), WeightedPrompt("another", 3.0))


def rows_of(prompt: Prompt) -> Array:
    """Imagined embeddings, of lengths that differ."""

    def rows(text: str) -> Array:
        generator = np.random.default_rng(list(text.encode()))
        return generator.standard_normal((1 + len(text) % 4, 3)).astype(np.float32)

    mixed = parts(prompt)
    return mix([rows(part.text) for part in mixed], [part.weight for part in mixed])


@dataclass
class Live:
    """A session at a stage, without ranks, and its record at a gateway."""

    session: Session
    record: Record
    latest: dict[int, int] = field(default_factory=dict)
    """By block, the number of its prompt in its latest pass."""
    rows: dict[int, Array] = field(default_factory=dict)
    """By number."""
    num_switches: int = 0
    receipts: list[PromptApplied] = field(default_factory=list)

    @property
    def count(self) -> Count:
        return Count(self.record.num_given_blocks)

    def switch(self, prompt: Prompt, mode: SwitchMode, transition: Transition | None) -> None:
        """At once, with its receipt."""
        self.num_switches += 1
        request_id = f"s{self.num_switches}"
        mix = () if isinstance(prompt, str) else prompt
        text = prompt if isinstance(prompt, str) else "a mix"
        self.record = apply(
            self.record, PromptAccepted(request_id, text, mode, None, 0, mix=mix, transition=transition)
        )
        embedding = Embedding(rows_of(prompt))
        self.session.apply(PendingSwitch(None, request_id, embedding, mode, transition=transition))
        receipt = self.session._events.get_nowait()
        assert isinstance(receipt, PromptApplied)
        touched, full, last = (
            receipt.first_block_touched, receipt.first_block_full, receipt.last_block_mixed
        )  # fmt: skip
        self.receipts.append(receipt)
        count = self.count
        applied = Applied(request_id, count.from_peer(touched), count.from_peer(full), 0)
        last = None if last is None else count.from_peer(last)
        self.record = apply(self.record, replace(applied, last_block_mixed=last))

    def tick(self) -> None:
        while due := self.session.due_switch(starting_block(self.session.timeline, self.session.shape)):
            self.session.apply(due)
        plan, self.session.timeline = plan_tick(self.session.timeline, self.session.shape)
        assert plan
        for prompts in self.session.take_prompts(plan):
            self.rows |= {number: new.rows for number, new in prompts.items()}
        if not plan.recache:
            self.latest |= {work.block: work.prompt for work in plan.works}
        if plan.emits is not None:
            self.record = apply(self.record, LatentsMade(self.count.from_peer(plan.emits), b"x"))

    def embedding(self, block: int) -> Array:
        return self.rows[self.latest[block]]


def begin(session: Session, request: SessionRequest) -> dict[int, Array]:
    rows = {block: rows_of(request.prompts[block]) for block in course_entries(request)}
    return {number: new.rows for number, new in session.set_prompts(rows).items()}


def opened(stagger: int, num_given: int = 0) -> Live:
    """A session with the prompt "first", begun from a clip of `num_given` blocks."""
    limits = Limits(num_sink_blocks=1, num_recent_blocks=5)
    clip = Beginning({block - num_given: b"x" for block in range(num_given)}, num_given)
    record = new_record(NewSession("s", "t", b"", {0: "first"}, limits=limits, beginning=clip), 0)
    session, rows = session_of(record, stagger)
    return Live(session, record, rows=rows)


def session_of(record: Record, stagger: int) -> tuple[Session, dict[int, Array]]:
    """As a stage opens it, with its first prompts."""
    return session_told(opening(record), stagger)


def session_told(opening: GenerateRequest.Open, stagger: int) -> tuple[Session, dict[int, Array]]:
    """What a stage makes of it, with the first prompts."""
    request = to_request(opening)
    context: Any = dict.fromkeys(context_blocks(WINDOW, request.start_block))
    request = replace(request, context=context, stagger=stagger, inflight_attention="causal")
    session = Session(Mock(), 1, request, Shape(5, stagger, 1, WINDOW))
    return session, begin(session, request)


def opening(record: Record) -> GenerateRequest.Open:
    """What another stage is told of it."""
    spec = SessionSpec(model="demo")
    streamed = SimpleNamespace(record=record, spec=spec, asked=spec)
    stream = StageStream(cast("Any", streamed), Mock(credit_end=lambda: 0), Mock(), 2, Settings())
    message: Message = stream._opening(record, kept_blocks(record, MODEL), MODEL)
    return GenerateRequest.Open.FromString(message.SerializeToString())


PROMPTS: st.SearchStrategy[Prompt] = st.one_of(st.sampled_from(["second", "the third", "4th"]), st.just(MIX))
MODES: st.SearchStrategy[SwitchMode] = st.sampled_from(["immediate", "boundary"])
STEPS = st.tuples(
    st.integers(0, 25), PROMPTS, MODES, st.one_of(st.none(), st.builds(Transition, st.integers(1, 8))),
)  # fmt: skip
TWO_AT_ONCE = ("second", "boundary", None), ("4th", "immediate", None)
"""The second takes the blocks before the first one's, too."""
AT_THE_START = ("second", "immediate", Transition(1)), ("the third", "immediate", None)
"""The first leaves block 0 alone, as every transition does."""


@given(
    steps=st.lists(STEPS, min_size=1, max_size=5), more=st.integers(0, 20),
    stagger=st.sampled_from([1, 2, 5]), num_given=st.sampled_from([0, 1, 2, 7]),
)  # fmt: skip
@example(steps=[(9, *TWO_AT_ONCE[0]), (0, *TWO_AT_ONCE[1])], more=0, stagger=1, num_given=0)
@example(steps=[(9, *TWO_AT_ONCE[0]), (0, *TWO_AT_ONCE[1])], more=3, stagger=1, num_given=0)
@example(steps=[(0, *AT_THE_START[0]), (1, *AT_THE_START[1])], more=6, stagger=5, num_given=0)
@example(steps=[(1, *AT_THE_START[0])], more=6, stagger=5, num_given=2)
@settings(max_examples=100, deadline=None)
def test_a_recovery_goes_on_exactly_where_it_was(
    steps: list[tuple[int, Prompt, SwitchMode, Transition | None]], more: int, stagger: int, num_given: int
) -> None:
    """Begun from a clip, too: its blocks, which come before the session's own, count at the stage."""
    live = opened(stagger, num_given)
    for gap, *switch in steps:
        for _ in range(gap):
            live.tick()
        live.switch(*switch)
    for _ in range(more):
        live.tick()
    told = applied_ahead(live.record)
    again, rows = session_of(live.record, stagger)
    for work in again.timeline.to_prime:
        if work.block >= num_given:
            np.testing.assert_allclose(rows[work.prompt], live.embedding(work.block), atol=1e-6)
    ahead = Live(again, live.record, rows=rows)
    for prompt in told:
        embedding, touched = Embedding(rows_of(prompt.mix or prompt.prompt)), prompt.first_block_touched
        block, name = live.count.at_peer(touched or 0), prompt.request_id
        again.schedule(PendingSwitch(block, name, embedding, "boundary", transition=prompt.transition))
    for _ in range(12):  # those in flight at the loss, too
        ahead.tick()
        live.tick()
    for block in sorted(ahead.latest.keys() & live.latest.keys()):
        if block >= num_given:
            np.testing.assert_allclose(ahead.embedding(block), live.embedding(block), atol=1e-6)


@given(tick=st.integers(0, 30), mode=MODES, num_mixed=st.integers(1, 4), stagger=st.sampled_from([1, 2, 5]),
    num_given=st.sampled_from([0, 1, 2, 7]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_what_a_receipt_calls_mixed_is_mixed(
    tick: int, mode: SwitchMode, num_mixed: int, stagger: int, num_given: int
) -> None:
    live = opened(stagger, num_given)
    for _ in range(tick):
        live.tick()
    live.switch("second", mode, Transition(num_mixed))
    for _ in range(50):
        live.tick()
    (receipt,) = live.receipts
    first, last = receipt.first_block_touched, receipt.last_block_mixed
    assert last == first + num_mixed - 1
    old, new = rows_of("first"), rows_of("second")
    mixes = [between(old, new, step / (num_mixed + 1), "linear") for step in range(1, num_mixed + 1)]
    for block, rows in enumerate([*mixes, new], first):
        np.testing.assert_allclose(live.embedding(block), rows, atol=1e-6, err_msg=str(block))
    if first > num_given:
        np.testing.assert_allclose(live.embedding(first - 1), old)


def test_a_stage_of_a_former_release_gets_texts() -> None:
    live = opened(5)
    for _ in range(12):
        live.tick()
    live.switch(MIX, "boundary", Transition(3, "slerp"))
    for _ in range(12):
        live.tick()
    message = opening(live.record)
    (block,) = message.mixes
    assert dict(message.prompts) == {0: "first", block: "another"}
    assert [(part.text, part.weight) for part in message.mixes[block].prompts] == [("one", 1), ("another", 3)]
    assert to_request(message).transitions == {block: Transition(3, "slerp")}
