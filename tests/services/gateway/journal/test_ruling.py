"""Prompts that are kept for transitions, and how they lie in Redis."""

from dataclasses import replace

from cascade_core.prompts import Transition, WeightedPrompt
from services.gateway.journal import Limits, PromptAccepted, PromptApplied, Record
from services.gateway.journal.codec import decode, difference
from services.gateway.journal.record import new_record
from services.gateway.journal.rules import apply
from services.gateway.journal.ruling import ruling_prompts
from tests.services.support.journal_support import blocks, new

MIX = (WeightedPrompt("a red circle", 1.0), WeightedPrompt("a blue square", 2.5))
OVER = Transition(4, "slerp")
LIMITS = Limits(num_recent_blocks=2, num_prompts=4)


def go(record: Record, block: int, transition: Transition | None) -> Record:
    """A switch that touches this block, which is made then."""
    request_id = f"s{block}"
    accepted = PromptAccepted(request_id, f"to {block}", "boundary", None, 0, transition=transition)
    receipt = PromptApplied(request_id, block, block + 4, 0, last_block_mixed=block + 3)
    return apply(record, accepted, receipt, *blocks(block, block + 1))


def test_what_a_transition_set_out_from_is_kept_as_long_as_it_lasts() -> None:
    record = apply(new_record(new(limits=LIMITS), 0), *blocks(0, 1))
    for block in (1, 2, 3):
        record = go(record, block, OVER)
    assert ruling_prompts(record) == {"create/0", "s1", "s2", "s3"}
    record = apply(record, *blocks(4, 8))
    assert ruling_prompts(record) == {"create/0", "s1", "s2", "s3"}  # of block 6, which is kept
    record = apply(record, *blocks(8, 9))
    assert ruling_prompts(record) == {"s3"}
    record = go(go(record, 9, None), 10, None)
    assert [entry.request_id for entry in record.prompts][-1] == "s10"
    assert len(record.prompts) == LIMITS.num_prompts


def stored(record: Record) -> dict[bytes, bytes]:
    head = difference(None, record).head | {"revision": str(record.revision).encode()}
    return {name.encode(): value for name, value in head.items()}


def test_mixes_and_transitions_come_back_from_redis() -> None:
    asked = replace(new(prompts={0: "a mix", 3: "b"}), mixes={0: MIX}, transitions={3: OVER})
    accepted = PromptAccepted("r", "a mix", "immediate", 9, 0, mix=MIX, transition=Transition(2))
    record = apply(new_record(asked, 0), accepted, PromptApplied("r", 7, 10, 1, last_block_mixed=8))
    assert decode(stored(record), {}) == record
    assert record.num_bytes > sum(len(part.text) for part in MIX) * 2


def test_a_session_without_them_is_stored_as_by_the_former_release() -> None:
    record = apply(new_record(new(), 0), PromptAccepted("r", "b", "immediate", None, 0))
    text = b"".join(stored(record).values())
    for name in (b"mix", b"transition"):
        assert name not in text
