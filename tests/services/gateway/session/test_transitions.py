"""Mixes and transitions from a client to the stage, over losses, drains and another gateway."""

import asyncio

import numpy as np
import pytest

from cascade.v1 import common_pb2, session_pb2
from cascade.v1.stage_pb2 import GenerateRequest
from cascade_core.model.mixing import between
from cascade_core.ranks.messages import Array
from cascade_core.schedule import plan_tick
from tests.services.gateway.peers.test_transitions import rows_of, session_told
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import fails, fresh_id, town, until
from tests.services.support.redis_support import RedisServer, needs_redis
from tests.services.support.two_gateways import check_whole, pair

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


def embeddings(opening: GenerateRequest.Open, end: int) -> dict[int, Array]:
    """By block, up to `end`: what the engine of a stage that is told this makes it with."""
    session, rows = session_told(opening, stagger=5)
    found = {work.block: rows[work.prompt] for work in session.timeline.to_prime}
    while session.timeline.next_block < end:
        plan, session.timeline = plan_tick(session.timeline, session.shape)
        assert plan
        for prompts in session.take_prompts(plan):
            rows |= {number: new.rows for number, new in prompts.items()}
        found |= {work.block: rows[work.prompt] for work in plan.works}
    return found


@needs_redis
async def test_a_gateway_that_is_lost_in_the_middle_is_followed_by_one_that_knows(redis: RedisServer) -> None:
    """From the journal in Redis; every block before and after has the very mix that it would have had."""
    num_mixed = 40
    over = common_pb2.Transition(num_blocks=num_mixed, interpolation=common_pb2.INTERPOLATION_SLERP)
    async with pair(redis) as both:
        name = await both.first.acme.name(prompts={0: "old"}, num_blocks=60)
        request = request_of(name, text="the new", mode=BOUNDARY, transition=over)
        async with both.first.acme.attached(name) as one:
            await one.until_segments(2)
            await both.first.acme.call("SwitchPrompt", request)
            first = (await one.receipt(request.request_id)).first_block_touched
            await one.until_sequence(first + 6)
            one.acks = False  # so that it stands still soon
            await until(lambda: not both.first.registry.shared.journal.behind().num_writes)
            await both.first.kill()
        token, last = one.events[0].attached.resume_token, one.sequences[-1]
        other = await both.second.acme.attach_again(name=name, resume_token=token, after_sequence=last)
        await other.ack(last)
        await other.until_over()
        (told,) = (each for each in other.events[0].attached.receipts if each.request_id)
        assert (told.first_block_touched, told.last_block_mixed) == (first, first + num_mixed - 1)
        await other.cut()
    check_whole(60, one, other)
    opening = both.stage.streams[-1].opening
    assert first < opening.start_block < first + num_mixed
    old, new = rows_of("old"), rows_of("the new")
    for block, found in embeddings(opening, 60).items():
        share = min(max(0, block - first + 1) / (num_mixed + 1), 1)
        expected = between(old, new, share, "slerp") if 0 < share < 1 else (old, new)[int(share)]
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=str(block))


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
