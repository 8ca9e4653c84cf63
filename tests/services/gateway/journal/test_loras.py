"""LoRAs in a record: which rule where, and how they lie in Redis beside what a former release reads."""

import json

import pytest

from services.gateway.journal import NewSession, PromptAccepted, PromptApplied, Record
from services.gateway.journal.codec import decode, difference, outline
from services.gateway.journal.errors import RequestConflict
from services.gateway.journal.record import new_record
from services.gateway.journal.rules import apply

INK, CLAY = (("ink", 0.5),), (("clay", -1.0), ("ink", 1.0))


@pytest.fixture
def record() -> Record:
    new = NewSession("s1", "acme", b"spec", {0: "a circle", 9: "a ring"}, loras=INK)
    return apply(
        new_record(new, 1),
        PromptAccepted("a", "a star", "immediate", 3, 2, CLAY),
        PromptAccepted("b", "a ring", "boundary", None, 3),
        PromptAccepted("c", "a dot", "boundary", 7, 4, ()),
    )


def test_a_switch_that_names_none_has_those_that_rule_where_it_takes_effect(record: Record) -> None:
    """As the stage's receipt says; else, of a former release's, as far as the record knows."""
    assert [record.loras_at(block) for block in (-2, 0, 5)] == [INK, INK, INK]
    assert record.loras_needed() == {"ink", "clay"}
    after = apply(record, PromptApplied("a", 3, 4, 5), PromptApplied("b", 5, 5, 6))
    assert [after.loras_at(block) for block in (2, 3, 5, 9)] == [INK, CLAY, CLAY, CLAY]
    told = apply(after, PromptApplied("c", 7, 7, 7), PromptApplied("create/9", 9, 9, 8, loras=INK))
    assert [told.loras_at(block) for block in (6, 7, 9)] == [CLAY, (), INK]
    again = PromptAccepted("b", "a ring", "boundary", None, 3)
    assert apply(told, again) is told, "a repeat, though its LoRAs are known by now"
    with pytest.raises(RequestConflict):
        apply(told, PromptAccepted("b", "a ring", "boundary", None, 3, INK))


def test_redis_gives_them_back_and_a_former_release_passes_them_over(record: Record) -> None:
    whole = difference(None, record)
    head = {name.encode(): value for name, value in whole.head.items()} | {b"revision": b"4"}
    found = decode(head, {})
    assert [entry.loras for entry in found.prompts] == [entry.loras for entry in record.prompts]
    assert [entry.loras for entry in found.prompts] == [INK, None, CLAY, None, ()]
    for name, value in whole.head.items():
        if name.startswith("p/"):
            assert "loras" not in json.loads(value), "it would refuse that"
    assert "loras" not in json.loads(whole.head["origin"])
    less = difference(outline(record), apply(record, PromptApplied("b", 1, 1, 9)))
    assert json.loads(less.head["w/b"]) == [["ink", 0.5]]
    former = {name: value for name, value in head.items() if not name.startswith(b"w/")}
    assert decode(former, {}).loras_at(5) == ()
