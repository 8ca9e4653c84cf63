"""Mixes and transitions from a client to the stage, over losses, drains and another gateway."""

import asyncio

import pytest

from cascade.v1 import common_pb2, session_pb2
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import fails, fresh_id, town

MIX = common_pb2.PromptMix(
    prompts=[{"text": "a red circle", "weight": 1}, {"text": "a blue square", "weight": 3}]
)
OVER = common_pb2.Transition(num_blocks=4, interpolation=common_pb2.INTERPOLATION_SLERP)
READABLE = "75% a blue square + 25% a red circle"
BOUNDARY = common_pb2.SWITCH_MODE_BOUNDARY


def request_of(name: str, **asked: object) -> session_pb2.SwitchPromptRequest:
    return session_pb2.SwitchPromptRequest(name=name, request_id=fresh_id(), prompt_switch=asked)


async def test_the_timeline_may_mix_and_go_over() -> None:
    async with town() as place:
        created = await place.anybody.create(
            prompts={4: "a green triangle"}, mixes={0: MIX}, transitions={4: OVER}, num_blocks=10,
            switch_mode=BOUNDARY,
        )  # fmt: skip
        spec = created.session.spec
        assert (dict(spec.prompts), spec.mixes[0]) == ({0: READABLE, 4: "a green triangle"}, MIX)
        assert created.session.prompt == READABLE
        async with place.anybody.attached(created.session.name) as stream:
            await stream.until_over()
        told = place.stage.streams[0].opening
        assert dict(told.prompts) == {0: "a blue square", 4: "a green triangle"}
        assert (told.mixes[0], told.transitions[4]) == (MIX, OVER)
        (receipt,) = [each for each in stream.all("prompt_receipt") if each.first_block_touched == 4]
        assert (receipt.last_block_mixed, receipt.first_block_full) == (7, 8)


async def test_a_stage_that_is_lost_in_the_middle_is_followed_by_one_that_knows() -> None:
    """Two transitions, the second begun in the middle of the first, then the loss in the middle of that."""
    async with town(stages=[FakeStage(), FakeStage()]) as place:
        name = await place.anybody.name(prompts={0: "old"})
        async with place.anybody.attached(name, acks=False, max_unacked_segments=2) as stream:
            await stream.until_segments(2)
            for text in ("new", "newer"):
                request = request_of(name, text=text, mode=BOUNDARY, transition=OVER)
                await place.anybody.call("SwitchPrompt", request)
                await stream.ack(stream.sequences[-1])
                receipt = await stream.receipt(request.request_id)
                assert receipt.last_block_mixed == receipt.first_block_touched + 3
                await stream.until_sequence(receipt.first_block_touched + 2)
            lost = next(stage for stage in place.stages if stage.streams)
            await lost.kill()
            other = next(stage for stage in place.stages if stage is not lost)
            stream.acks = True
            await stream.ack(stream.sequences[-1])
            await stream.until(lambda: other.streams and other.streams[0].sent)
            told = other.streams[0].opening
        first, second = sorted(told.prompts)[-2:]
        assert dict(told.prompts) == {0: "old", first: "new", second: "newer"}
        assert dict(told.transitions) == {first: OVER, second: OVER}
        assert first < second < told.start_block < second + 4


async def test_a_switch_waits_for_its_stage_with_its_mix() -> None:
    async with town(stages=[FakeStage(capacity=0)]) as place:
        name = await place.anybody.name()
        request = request_of(name, mix=MIX, transition=OVER)
        answer = await place.anybody.call("SwitchPrompt", request)
        assert answer.receipt.text == READABLE
        assert not answer.receipt.HasField("last_block_mixed")
        async with place.anybody.attached(name) as stream:
            place.stage.set_capacity(1)
            receipt = await stream.receipt(request.request_id)
        assert receipt.last_block_mixed == receipt.first_block_touched + 3
        changed = request_of(name, mix=MIX)
        changed.request_id = request.request_id
        with fails("ALREADY_EXISTS REQUEST_ID_REUSED"):
            await place.anybody.call("SwitchPrompt", changed)


@pytest.mark.parametrize(
    ("most", "field", "told"),
    [
        (0, "prompt_switch.mix", "is not offered: the stages of this model are of a former release"),
        (3, "prompt_switch.transition.num_blocks", "4 is more than 3, which the stages of this model take"),
    ],
)
async def test_what_no_stage_takes_is_refused(most: int, field: str, told: str) -> None:
    async with town(stages=[FakeStage(max_transition_blocks=most)]) as place, asyncio.timeout(20):
        name = await place.anybody.name()
        with fails("INVALID_ARGUMENT INVALID_FIELD") as details:
            await place.anybody.call("SwitchPrompt", request_of(name, mix=MIX, transition=OVER))
        (violation,) = details[0]["BadRequest"].field_violations
        assert (violation.field, violation.description) == (field, told)
        with fails("INVALID_ARGUMENT INVALID_FIELD") as details:
            await place.anybody.create(prompts={0: "a", 3: "b"}, transitions={3: OVER})
        assert details[0]["BadRequest"].field_violations[0].field == "spec.transitions[3].num_blocks"
