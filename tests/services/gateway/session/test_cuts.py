"""Scene cuts from a client to the stage, and what another stage is told of them after a loss."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from cascade.v1 import common_pb2, session_pb2
from services.gateway.journal import (
    LatentsMade,
    Limits,
    NewSession,
    PromptAccepted,
    PromptApplied,
    SegmentMade,
)
from services.gateway.journal.beginning import Beginning
from services.gateway.journal.codec import decode, difference, outline
from services.gateway.journal.record import new_record
from services.gateway.journal.rules import apply
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import fails, fresh_id, town

CUT = common_pb2.SWITCH_MODE_CUT


def request_of(name: str, **asked: object) -> session_pb2.SwitchPromptRequest:
    return session_pb2.SwitchPromptRequest(name=name, request_id=fresh_id(), prompt_switch=asked)


async def test_the_first_block_of_a_shot_is_brought_to_the_next_stage() -> None:
    """Long after the recent blocks have left it behind; and the cuts before it are told, too."""
    stages = [FakeStage(scene_cuts=True) for _ in range(2)]
    async with town(stages=stages) as place:
        name = await place.anybody.name(prompts={0: "a street", 2: "a room"}, switch_mode=CUT)
        async with place.anybody.attached(name) as stream:
            request = request_of(name, text="a garden", mode=CUT)
            await place.anybody.call("SwitchPrompt", request)
            cut = (await stream.receipt(request.request_id)).first_block_touched
            await stream.until_sequence(cut + 9)
            lost = next(stage for stage in place.stages if stage.streams)
            await lost.kill()
            other = next(stage for stage in place.stages if stage is not lost)
            await stream.until(lambda: other.streams and other.streams[0].sent)
            (again,) = other.streams
            told = again.opening
            assert list(told.cuts) == [2, cut]
            assert [mark.block for mark in again.context] == [
                0,
                cut,
                *range(told.start_block - 3, told.start_block),
            ]
            await place.anybody.delete(name)


def made(blocks: Iterable[int]) -> Iterator[LatentsMade | SegmentMade]:
    for block in blocks:
        yield from (LatentsMade(block, b"x"), SegmentMade(block, b"y"))


@pytest.mark.parametrize("num_given", [0, 3])
def test_a_record_keeps_cuts_and_what_the_newest_shot_began_with(num_given: int) -> None:
    """Over Redis, too; also where an earlier block's prompt has taken the place of the cut's."""
    limits = Limits(num_sink_blocks=1, num_recent_blocks=2)
    clip = Beginning({block - num_given: b"x" for block in range(num_given)}, num_given)
    record = new_record(NewSession("s", "t", b"", {0: "a"}, limits=limits, beginning=clip), 0)

    def switched(mode: str, touched: int) -> None:
        nonlocal record
        name = f"{mode}{touched}"
        accepted = PromptAccepted(name, "b", mode, None, 0)  # type: ignore[arg-type]
        record = apply(record, accepted, PromptApplied(name, touched, touched, 0))

    switched("cut", 0)
    first = [0] if num_given else []  # else it is the video's beginning, and no cut
    assert record.cuts == tuple(first)
    record = apply(record, *made(range(3)))
    switched("cut", 5)
    switched("immediate", 4)
    before, record = record, apply(record, *made(range(3, 5)))
    assert sorted(record.latents)[:2] == [-num_given, 0 if num_given else 3], "the one before it is in use"
    record = apply(record, *made(range(5, 12)))
    assert record.cuts == (*first, 5)
    assert sorted(record.latents) == [-num_given, 5, 10, 11]
    assert record.pinned == 5
    head = difference(None, before).head | difference(outline(before), record).head
    found = decode({name.encode(): value for name, value in head.items()} | {b"revision": b"9"}, {})
    assert found.cuts == record.cuts
    assert replace(record, cuts=()).pinned is None


async def test_what_no_stage_can_cut_is_refused() -> None:
    async with town(stages=[FakeStage()]) as place:
        name = await place.anybody.name()
        with fails("INVALID_ARGUMENT INVALID_FIELD") as details:
            await place.anybody.call("SwitchPrompt", request_of(name, text="a room", mode=CUT))
        (violation,) = details[0]["BadRequest"].field_violations
        assert (violation.field, violation.description) == (
            "prompt_switch.mode",
            "cut: demo was not made for scene cuts",
        )
        with fails("INVALID_ARGUMENT INVALID_FIELD"):
            await place.anybody.create(switch_mode=CUT)
        assert (
            not (await place.anybody.call("ListModels", session_pb2.ListModelsRequest())).models[0].scene_cuts
        )
    async with town(stages=[FakeStage(scene_cuts=True)]) as place:
        name = await place.anybody.name()
        with fails("INVALID_ARGUMENT INVALID_FIELD") as details:
            over = common_pb2.Transition(num_blocks=2)
            await place.anybody.call(
                "SwitchPrompt", request_of(name, text="a room", mode=CUT, transition=over)
            )
        assert details[0]["BadRequest"].field_violations[0].description == "a cut has no transition"
