"""What is kept of a session, and what gives way."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.status import describe
from services.gateway.journal import (
    Acked,
    Change,
    Ended,
    Limits,
    LimitsSet,
    Noted,
    PromptRefused,
    Record,
    Requested,
)
from services.gateway.journal.errors import (
    InvalidEntry,
    JournalFull,
    LeaseHeld,
    OutOfOrder,
    RequestConflict,
    SegmentsGone,
    SessionTaken,
)
from services.gateway.journal.record import new_record
from services.gateway.journal.rules import apply
from tests.services.support.journal_support import (
    LIMITS,
    applied,
    blocks,
    latents,
    new,
    segment,
    switch,
)


def record_of(*changes: Change, **values: Any) -> Record:
    return apply(new_record(new(**values), 0), *changes)


class TestRecord:
    """The rules of `apply`, which every journal follows."""

    @given(st.integers(0, 3), st.integers(1, 5), st.integers(0, 4), st.integers(0, 25), st.integers(0, 25))
    def test_latents_kept(self, sink: int, recent: int, warmup: int, made: int, decoded: int) -> None:
        limits = Limits(num_sink_blocks=sink, num_recent_blocks=recent, num_warmup_blocks=warmup)
        record = record_of(*(latents(block) for block in range(made)), limits=limits)
        decoded = min(decoded, made)
        record = apply(record, *(segment(block) for block in range(decoded)))
        wanted = {*range(sink), *range(made - recent, made), *range(decoded - warmup, made)}
        assert list(record.latents) == sorted(wanted & set(range(made)))

    def test_unacknowledged_segments_stay(self) -> None:
        record = record_of(*blocks(0, 10))
        assert record.oldest_segment_block == 0
        record = apply(record, Acked(3))
        assert record.oldest_segment_block == 3
        record = apply(record, Acked(2), Acked(10), *blocks(10, 11))
        assert (record.num_acked, [kept.block for kept in record.segments]) == (10, [7, 8, 9, 10])
        assert [kept.block for kept in record.read(8, 2)] == [8, 9]
        assert record.read(11, 5) == ()
        with pytest.raises(SegmentsGone) as gone:
            record.read(6, 1)
        assert gone.value.oldest == 7

    def test_bytes_are_bounded(self) -> None:
        limits = replace(LIMITS, max_bytes=1000)
        record = record_of(latents(0, 300), segment(0, 300), latents(1, 100), segment(1, 200), limits=limits)
        assert len(record.segments) == 2
        record = apply(record, latents(2, 150))  # not even the unacknowledged ones stay
        assert [kept.block for kept in record.segments] == [1]
        with pytest.raises(JournalFull, match="max_bytes 1000"):
            apply(record, latents(3, 400))
        with pytest.raises(JournalFull, match="max_bytes 1000"):
            new_record(new(limits=limits, specification=b"x" * 1001), 0)

    def test_gaps_and_repeats_are_refused(self) -> None:
        record = record_of(*blocks(0, 2), latents(2))
        for change in (latents(2), latents(4), segment(1), segment(3), Acked(3), applied("x", 1, 1)):
            with pytest.raises(OutOfOrder):
                apply(record, change)
        with pytest.raises(OutOfOrder, match="no latents"):
            apply(record, segment(2), segment(3))

    def test_repeats_of_requests_change_nothing(self) -> None:
        record = record_of(switch("r1"), Requested("q", b"d"), Noted("n", b"v"), Acked(0))
        same = (replace(switch("r1"), accepted_ms=5), Requested("q", b"d"), Noted("n", b"v"), Acked(0))
        assert apply(record, *same, LimitsSet(LIMITS)) is record
        for change in (switch("r1", "green"), switch("r1", at_block=3), Requested("q", b"e")):
            with pytest.raises(RequestConflict):
                apply(record, change)
        record = apply(record, applied("r1", 3, 5))
        assert apply(record, applied("r1", 2, 9), switch("r1")) is record
        entry = record.find_prompt("r1")
        assert entry
        assert (entry.first_block_touched, entry.first_block_full, entry.unknown_words) == (3, 5, ("zorgle",))
        with pytest.raises(OutOfOrder):
            apply(record, PromptRefused("r1", b"late"))

    def test_timeline_and_waiting(self) -> None:
        record = record_of(*blocks(0, 5), prompts={0: "a", 3: "b", 8: "c"}, limits=Limits())
        record = apply(record, switch("then", "d", 9), switch("now", "e"), switch("bad", "f"))
        record = apply(record, PromptRefused("bad", b"why"))
        assert apply(record, PromptRefused("bad", b"other")) is record
        assert [(entry.request_id, entry.at_block) for entry in record.waiting()] == [
            ("then", 9),
            ("now", None),
        ]
        assert record.timeline() == {0: "a", 3: "b", 8: "c"}
        record = apply(record, *blocks(5, 7), applied("now", 6, 8))
        assert [entry.request_id for entry in record.waiting()] == ["then"]
        assert record.timeline() == {0: "a", 3: "b", 6: "e", 8: "c"}
        record = apply(record, applied("create/8", 8, 8), applied("then", 9, 9))
        assert record.waiting() == ()
        assert record.timeline() == {0: "a", 3: "b", 6: "e", 8: "c", 9: "d"}
        record = apply(record, switch("at once", "g"), applied("at once", 8, 10))  # 8 and 9 were in flight
        assert record.timeline() == {0: "a", 3: "b", 6: "e", 8: "g"}
        with pytest.raises(OutOfOrder):
            apply(record, applied("bad", 9, 9))

    def test_prompts_give_way_unless_they_rule_what_is_kept(self) -> None:
        record = record_of(limits=replace(LIMITS, num_prompts=6))
        for block in range(12):
            record = apply(
                record, *blocks(block, block + 1), switch(f"no{block}"), PromptRefused(f"no{block}", b"x")
            )
            record = apply(
                record, switch(f"r{block}", f"prompt {block}"), applied(f"r{block}", block + 1, block + 1)
            )
            assert len(record.prompts) <= 6
            whole = {0: "a red circle"} | {number + 1: f"prompt {number}" for number in range(block + 1)}
            for kept in (*record.latents, record.next_stage_block):
                assert ruling(record.timeline(), kept) == ruling(whole, kept)
        with pytest.raises(JournalFull, match="prompts wait"):
            apply(record, *(switch(f"s{number}") for number in range(6)))

    def test_only_the_newest_requests_are_known(self) -> None:
        record = record_of(*(Requested(f"q{number}", b"d") for number in range(5)))
        assert list(record.requests) == ["q2", "q3", "q4"]

    def test_what_no_journal_takes(self) -> None:
        for values in (
            {"session": "a{b}"},
            {"tenant": ""},
            {"prompts": {3: "late"}},
            {"prompts": dict.fromkeys(range(5), "more than num_prompts")},
            {"request_id": "x" * 999},
        ):
            with pytest.raises(InvalidEntry):
                new(**values)
        for change in (
            switch("create/0"),
            switch(""),
            Ended(b""),
            Noted("", b"x"),
            Requested("x", b"d" * 2000),
        ):
            with pytest.raises(InvalidEntry):
                record_of(change)
        with pytest.raises(InvalidEntry, match="num_recent_blocks"):
            Limits(num_recent_blocks=0)

    def test_errors_have_a_status(self) -> None:
        reasons = [
            describe(error, "id").details[0].value for error in (SessionTaken("s"), LeaseHeld("s", "a", 1.0))
        ]
        assert b"SESSION_EXISTS" in reasons[0]
        assert b"NOT_READY" in reasons[1]


def ruling(timeline: dict[int, str], block: int) -> str:
    return timeline[max(begin for begin in timeline if begin <= block)]
