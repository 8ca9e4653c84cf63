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
from cascade_core.config import SwitchMode, WindowConfig
from cascade_core.engine.session import PendingSwitch, PromptApplied, Session
from cascade_core.model.mixing import mix
from cascade_core.prompts import Prompt, Transition, WeightedPrompt, parts
from cascade_core.ranks.messages import Array, Embedding
from cascade_core.request import SessionRequest, course_entries
from cascade_core.schedule import Shape, context_blocks, plan_tick, starting_block
from services.gateway.base.settings import Settings
from services.gateway.journal import LatentsMade, Limits, NewSession, PromptAccepted, Record
from services.gateway.journal import PromptApplied as Applied
from services.gateway.journal.record import new_record
from services.gateway.journal.rules import apply
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
        self.record = apply(self.record, Applied(request_id, touched, full, 0, last_block_mixed=last))

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
            self.record = apply(self.record, LatentsMade(plan.emits, b"x"))

    def embedding(self, block: int) -> Array:
        return self.rows[self.latest[block]]


def begin(session: Session, request: SessionRequest) -> dict[int, Array]:
    rows = {block: rows_of(request.prompts[block]) for block in course_entries(request)}
    return {number: new.rows for number, new in session.set_prompts(rows).items()}


def opened(request: SessionRequest, stagger: int) -> Live:
    shape = Shape(5, stagger, 1, WINDOW)
    request = replace(request, stagger=stagger, inflight_attention="causal")
    session = Session(Mock(), 1, request, shape)
    limits = Limits(num_sink_blocks=1, num_recent_blocks=5)
    live = Live(session, new_record(NewSession("s", "t", b"", {0: "first"}, limits=limits), 0))
    live.rows |= begin(session, request)
    return live


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
    steps=st.lists(STEPS, min_size=1, max_size=5), more=st.integers(0, 20), stagger=st.sampled_from([1, 2, 5])
)  # fmt: skip
@example(steps=[(9, *TWO_AT_ONCE[0]), (0, *TWO_AT_ONCE[1])], more=0, stagger=1)
@example(steps=[(9, *TWO_AT_ONCE[0]), (0, *TWO_AT_ONCE[1])], more=3, stagger=1)
@example(steps=[(0, *AT_THE_START[0]), (1, *AT_THE_START[1])], more=6, stagger=5)
@settings(max_examples=100, deadline=None)
def test_a_recovery_goes_on_exactly_where_it_was(
    steps: list[tuple[int, Prompt, SwitchMode, Transition | None]], more: int, stagger: int
) -> None:
    live = opened(SessionRequest({0: "first"}), stagger)
    for gap, *switch in steps:
        for _ in range(gap):
            live.tick()
        live.switch(*switch)
    for _ in range(more):
        live.tick()
    record, start = live.record, live.record.next_stage_block
    told = applied_ahead(record)
    message = opening(record)
    context = dict.fromkeys(context_blocks(WINDOW, start))
    request = replace(to_request(message), context=context, stagger=stagger, inflight_attention="causal")
    again = Session(Mock(), 2, request, Shape(5, stagger, 1, WINDOW))
    rows = begin(again, request)
    for work in again.timeline.to_prime:
        np.testing.assert_allclose(rows[work.prompt], live.embedding(work.block), atol=1e-6)
    ahead = Live(again, record, rows=rows)
    for prompt in told:
        embedding = Embedding(rows_of(prompt.mix or prompt.prompt))
        block, name = prompt.first_block_touched, prompt.request_id
        again.schedule(PendingSwitch(block, name, embedding, "boundary", transition=prompt.transition))
    for _ in range(12):  # those in flight at the loss, too
        ahead.tick()
        live.tick()
    for block in sorted(ahead.latest.keys() & live.latest.keys()):
        np.testing.assert_allclose(ahead.embedding(block), live.embedding(block), atol=1e-6)


def test_a_stage_of_a_former_release_gets_texts() -> None:
    live = opened(SessionRequest({0: "first"}), 5)
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
