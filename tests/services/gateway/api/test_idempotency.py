"""Every mutation may be repeated: the same answer brought up to date, and nothing happens twice."""

import asyncio
from typing import Any

import grpc
import pytest

from cascade.v1 import session_pb2 as pb
from services.gateway.journal import Change, Requested
from services.gateway.journal.errors import LeaseLost
from services.gateway.session.live import LiveSession
from tests.services.support.fake_stage import REFUSED, FakeStage
from tests.services.support.gateway_support import (
    PROMPT,
    REASONS,
    fails,
    reason_of,
    status_reason,
    town,
)

REUSED = "ALREADY_EXISTS REQUEST_ID_REUSED"


async def test_a_repeated_creation_finds_the_same_session() -> None:
    async with town(stages=[]) as place:
        first = await place.anybody.create("r1")
        again = await place.anybody.create("r1")
        assert first.session.name == again.session.name
        assert again.resume_token
        assert len((await place.anybody.call("ListSessions", pb.ListSessionsRequest())).sessions) == 1
        with fails(REUSED):
            await place.anybody.create("r1", prompts={0: "something else"})
        with fails(REUSED):
            await place.anybody.create("r1", session_id="another-id")


async def test_twenty_equal_creations_at_once_make_one_session() -> None:
    async with town(stages=[]) as place:
        answers = await asyncio.gather(*(place.anybody.create("r1") for _ in range(20)))
        assert len({answer.session.name for answer in answers}) == 1
        assert len((await place.anybody.call("ListSessions", pb.ListSessionsRequest())).sessions) == 1


async def test_a_creation_is_repeated_at_the_limit_of_the_quota_and_of_the_queue() -> None:
    async with town(stages=[], max_sessions_per_tenant=1) as place:
        first = await place.anybody.create("r1")
        assert (await place.anybody.create("r1")).session.name == first.session.name
    async with town(stages=[], queue_length=1) as place:
        first = await place.anybody.create("r1")
        assert (await place.anybody.create("r1")).session.name == first.session.name


async def test_equal_creations_at_once_make_one_session_at_the_limit_of_the_quota() -> None:
    async with town(stages=[], max_sessions_per_tenant=1) as place:
        answers = await asyncio.gather(*(place.anybody.create("r1") for _ in range(20)))
        assert len({answer.session.name for answer in answers}) == 1


async def test_a_creation_is_repeated_after_the_end() -> None:
    async with town(stages=[]) as place:
        first = await place.anybody.create("r1")
        await place.anybody.delete(first.session.name)
        again = await place.anybody.create("r1")
        assert again.session.name == first.session.name
        assert REASONS[again.session.end.reason] == "DELETED"


async def test_a_creation_is_repeated_while_the_session_runs() -> None:
    async with town() as place:
        first = await place.anybody.create("r1")
        async with place.anybody.attached(first.session.name) as stream:
            await stream.until_segments(2)
            again = await place.anybody.create("r1")
            assert (again.session.name, again.session.epoch) == (first.session.name, 1)
            assert again.session.num_blocks >= 2
            async with place.anybody.attached(resume_token=again.resume_token, role=2) as viewer:
                assert viewer.all("attached")[0].session.name == first.session.name
            await stream.until_segments(len(stream.segments) + 3)


async def test_request_ids_of_two_tenants_have_nothing_to_do_with_each_other() -> None:
    async with town(stages=[], tenants=["acme", "rival"]) as place:
        acme, rival = place.tenants["acme"], place.tenants["rival"]
        ours, theirs = await acme.create("r1"), await rival.create("r1", prompts={0: "other"})
        assert ours.session.name != theirs.session.name
        assert ours.session.spec.seed != theirs.session.spec.seed


async def test_a_session_id_is_taken_once() -> None:
    async with town(stages=[], tenants=["acme", "rival"]) as place:
        acme, rival = place.tenants["acme"], place.tenants["rival"]
        created = await acme.create(session_id="mine")
        assert created.session.name == "sessions/mine"
        for tenant in (acme, rival):
            with fails("ALREADY_EXISTS SESSION_EXISTS"):
                await tenant.create(session_id="mine")
        await acme.delete("sessions/mine")
        with fails("ALREADY_EXISTS SESSION_EXISTS"):
            await acme.create(session_id="mine")


async def test_a_repeated_pause_does_not_undo_a_resume() -> None:
    async with town() as place:
        name = await place.anybody.name()
        assert (await place.anybody.pause(name, "p1")).paused
        assert not (await place.anybody.resume(name, "p2")).paused
        assert not (await place.anybody.pause(name, "p1")).paused
        assert not (await place.anybody.resume(name, "p2")).paused
        assert (await place.anybody.pause(name, "p3")).paused
        assert (await place.anybody.pause(name, "p4")).paused, "pausing a paused session succeeds"
        assert not (await place.anybody.resume(name, "p5")).paused
        assert not (await place.anybody.resume(name, "p6")).paused


async def test_an_id_of_one_method_is_refused_by_another() -> None:
    async with town() as place:
        name = await place.anybody.name()
        await place.anybody.pause(name, "x")
        for call in (place.anybody.resume(name, "x"), place.anybody.delete(name, "x")):
            with fails(REUSED):
                await call
        with fails(REUSED):
            await place.anybody.switch(name, "text", "x")
        assert not (await place.anybody.get(name)).HasField("end")


async def test_a_session_is_deleted_twice() -> None:
    async with town() as place:
        name = await place.anybody.name()
        first = await place.anybody.delete(name, "d1")
        assert await place.anybody.delete(name, "d1") == first
        assert await place.anybody.delete(name, "d2") == first


async def test_deletions_at_once_all_succeed() -> None:
    async with town() as place:
        name = await place.anybody.name()
        calls = (place.anybody.delete(name, f"d{number % 3}") for number in range(12))
        answers = await asyncio.gather(*calls)
        assert {REASONS[answer.end.reason] for answer in answers} == {"DELETED"}


async def test_an_ended_session_refuses_what_would_change_it() -> None:
    async with town() as place:
        name = await place.anybody.name()
        await place.anybody.pause(name, "p1")
        await place.anybody.delete(name)
        closed = "FAILED_PRECONDITION SESSION_CLOSED"
        tenant = place.anybody
        assert REASONS[(await tenant.pause(name, "p1")).end.reason] == "DELETED", "a repeat is no news"
        with fails(REUSED):
            await tenant.delete(name, "p1")
        for call in (tenant.pause(name), tenant.resume(name), tenant.switch(name, "x"), tenant.token(name)):
            with fails(closed, end_reason="DELETED"):
                await call


async def test_calls_that_meet_the_end_are_told_of_it() -> None:
    async with town() as place:
        for _ in range(20):
            name = await place.anybody.name()
            switches = (place.anybody.switch(name, "x", f"s{number}") for number in range(10))
            pauses = (place.anybody.pause(name, f"p{number}") for number in range(5))
            calls = [*switches, place.anybody.delete(name), *pauses]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
            assert {reason_of(error) for error in errors} <= {"FAILED_PRECONDITION SESSION_CLOSED"}


async def test_a_call_that_finds_its_lease_gone_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the session ends, or another gateway takes it, between the look and the write."""
    write, failures = LiveSession.write, [0]

    async def fenced_once(self: LiveSession, *changes: Change, **options: Any) -> None:
        if any(isinstance(change, Requested) for change in changes) and not failures[0]:
            failures[0] = 1
            raise LeaseLost("another owner", epoch=9)
        await write(self, *changes, **options)

    async with town() as place:
        name = await place.anybody.name()
        monkeypatch.setattr(LiveSession, "write", fenced_once)
        assert (await place.anybody.pause(name)).paused
        assert failures == [1]


async def test_a_repeated_switch_returns_the_receipt_as_it_stands() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_segments(4)
            first = await place.anybody.switch(name, "a blue square", "s1")
            assert (first.request_id, first.state) == ("s1", pb.SWITCH_STATE_ACCEPTED)
            assert first.HasField("accept_time")
            assert await place.anybody.switch(name, "a blue square", "s1") == first
            await stream.ack(4)
            applied = await stream.receipt("s1")
            assert await place.anybody.switch(name, "a blue square", "s1") == applied
            assert applied.first_block_touched == 4
            assert applied.touched_presentation_time.ToMilliseconds() == round((12 * 4 - 3) / 16 * 1000 - 0.5)
            with fails(REUSED):
                await place.anybody.switch(name, "other", "s1")
            with fails(REUSED):
                await place.anybody.switch(name, "a blue square", "s1", at_block=99)
        assert place.stage.streams[0].switches == ["s1"]


async def test_equal_switches_at_once_reach_the_stage_once() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(1)
            calls = (place.anybody.switch(name, "a blue square", "s1") for _ in range(20))
            answers = await asyncio.gather(*calls)
            assert {answer.request_id for answer in answers} == {"s1"}
            await stream.receipt("s1")
        assert place.stage.streams[0].switches == ["s1"]
        assert [item.state for item in stream.all("prompt_receipt")] == [1, 2]


async def test_a_refused_switch_stays_refused() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(1)
            for _ in range(2):
                with fails("INVALID_ARGUMENT INVALID_PROMPT") as details:
                    await place.anybody.switch(name, REFUSED, "s1")
                assert details[0]["BadRequest"].field_violations
            refused = await stream.receipt("s1", "REFUSED")
            assert status_reason(refused.status) == "INVALID_PROMPT"
            await stream.until_segments(len(stream.segments) + 2)
        assert place.stage.streams[0].switches == ["s1"]


async def test_a_switch_is_repeated_after_the_end() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(1)
            await place.anybody.switch(name, "a blue square", "s1")
            applied = await stream.receipt("s1")
            await place.anybody.delete(name)
        assert await place.anybody.switch(name, "a blue square", "s1") == applied
        with fails(REUSED):
            await place.anybody.switch(name, "other", "s1")


async def test_a_block_that_is_not_ahead_is_named_with_the_next_one() -> None:
    async with town() as place:
        name = await place.anybody.name(num_blocks=9)
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_segments(4)
            with fails("FAILED_PRECONDITION BLOCK_NOT_AHEAD", next_block="4"):
                await place.anybody.switch(name, "x", at_block=2)
            with fails("FAILED_PRECONDITION BLOCK_NOT_AHEAD", next_block="4"):
                await place.anybody.switch(name, "x", at_block=9)
            receipt = await place.anybody.switch(name, "x", "s1", at_block=6)
            assert receipt.state == pb.SWITCH_STATE_ACCEPTED
            stream.acks = True
            await stream.ack(4)
            assert (await stream.receipt("s1")).first_block_touched == 6
            await stream.until_over()


async def test_a_block_beyond_the_end_is_refused_while_the_session_waits() -> None:
    async with town(stages=[FakeStage(capacity=0)]) as place:
        name = await place.anybody.name(num_blocks=4)
        with fails("FAILED_PRECONDITION BLOCK_NOT_AHEAD", next_block="0"):
            await place.anybody.switch(name, "x", at_block=4)


async def test_too_many_switches_that_wait_are_refused() -> None:
    async with town(stages=[]) as place:
        name = await place.anybody.name()
        for number in range(64):
            await place.anybody.switch(name, "x", f"s{number}")
        with fails("RESOURCE_EXHAUSTED TOO_MANY_SWITCHES") as details:
            await place.anybody.switch(name, "x", "one-more")
        assert details[0]["RetryInfo"].HasField("retry_delay")
        again = await place.anybody.switch(name, "x", "s3")
        assert again.state == pb.SWITCH_STATE_ACCEPTED


async def test_switches_take_effect_in_the_order_of_blocks_then_of_acceptance() -> None:
    async with town(stages=[FakeStage(capacity=0)]) as place:
        name = await place.anybody.name(num_blocks=8, prompts={0: PROMPT, 3: "from the timeline"})
        async with place.anybody.attached(name) as stream:
            for request_id, block in (("late", 6), ("first", None), ("second", None), ("early", 5)):
                await place.anybody.switch(name, request_id, request_id, at_block=block)
            place.stage.set_capacity(1)
            await stream.until_over()
        applied = [item for item in stream.all("prompt_receipt") if item.state == pb.SWITCH_STATE_APPLIED]
        seen = [(item.request_id, item.first_block_touched) for item in applied]
        assert seen == [("first", 0), ("second", 0), ("", 3), ("early", 5), ("late", 6)]
        for item in applied:
            at = stream.position("prompt_receipt", lambda other, item=item: other == item)
            block = item.first_block_touched
            assert at < stream.position("segment", lambda segment, block=block: segment.media.block == block)
