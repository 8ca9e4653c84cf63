"""The life of a session, from the queue to each of its ends, as `session.proto` tells it."""

import asyncio
import itertools

import pytest

from cascade.v1 import session_pb2 as pb
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import REFUSED, UNKNOWN, FakeStage
from tests.services.support.gateway_support import (
    PROMPT,
    REASONS,
    STATES,
    VIEWER,
    duration,
    fails,
    fresh_id,
    status_reason,
    town,
    until,
)


async def test_a_session_goes_through_all_states_in_order() -> None:
    async with town(stages=[FakeStage(capacity=0)]) as place:
        created = await place.anybody.create(num_blocks=12)
        assert STATES[created.session.state] == "QUEUED"
        name = created.session.name
        async with place.anybody.attached(name, acks=False) as stream:
            place.stage.set_capacity(4)
            await stream.until_segments(4)
            await place.anybody.pause(name)
            await stream.until(lambda: stream.states[-1] == "PAUSED")
            await place.anybody.resume(name)
            await stream.until(lambda: stream.states[-1] == "ACTIVE")
            stream.acks = True
            await stream.ack(4)
            await stream.until_over()
        assert stream.error is None
        assert stream.states == ["QUEUED", "STARTING", "ACTIVE", "PAUSED", "ACTIVE", "ENDED"]
        assert stream.sequences == list(range(1, 13))
        assert [mark.block for mark in stream.marks] == list(range(12))
        assert stream.kinds[-1] == "ended"
        assert (stream.end_reason, stream.all("ended")[0].last_sequence) == ("COMPLETE", 12)


async def test_the_answer_has_the_defaults_filled_in() -> None:
    async with town() as place:
        created = await place.anybody.create(labels={"a": "b"}, prompts={0: PROMPT, 3: UNKNOWN}, num_blocks=2)
        spec = created.session.spec
        assert (spec.model, spec.priority, spec.profiles[0].id) == ("demo", pb.PRIORITY_NORMAL, "default")
        assert spec.HasField("seed")
        assert spec.idle_timeout.seconds == 60
        assert spec.switch_mode
        assert created.session.tenant == "default"
        assert created.session.HasField("create_time")
        async with place.anybody.attached(created.session.name, acks=False) as stream:
            await stream.until_segments(1)
            session = await place.anybody.get(created.session.name)
            assert (session.spec.width, session.spec.height, session.spec.fps) == (64, 64, 16)
            assert (session.block_frames, session.model_licence, session.epoch) == (3, "none", 1)
            assert session.has_controller
            assert session.num_viewers == 0
            assert session.HasField("start_time")
            assert [(words.block, *words.words) for words in session.unknown_words] == [(3, UNKNOWN)]
            await stream.until_segments(2)
            await stream.ack(2)
            await stream.until_over()
        session = await place.anybody.get(created.session.name)
        assert (session.num_blocks, session.last_sequence, session.acked_sequence) == (2, 2, 2)
        assert REASONS[session.end.reason] == "COMPLETE"
        assert session.end.HasField("end_time")


async def test_segments_tell_their_place_and_time() -> None:
    async with town() as place:
        name = await place.anybody.name(num_blocks=3)
        async with place.anybody.attached(name) as stream:
            await stream.until_over()
        seen = [(item.media.block, item.media.first_frame, item.media.num_frames) for item in stream.segments]
        assert seen == [(0, 0, 9), (1, 9, 12), (2, 21, 12)]
        assert stream.segments[1].media.presentation_time.ToMilliseconds() == round(9 / 16 * 1000 - 0.5)
        assert all(item.epoch == 1 and item.HasField("create_time") for item in stream.segments)


async def test_deleting_ends_a_session_in_every_state() -> None:
    async with town(stages=[FakeStage(capacity=1)]) as place:
        active = await place.anybody.name()
        async with (
            place.anybody.attached(active) as stream,
            place.anybody.attached(active, role=VIEWER) as viewer,
        ):
            await stream.until_segments(1)
            queued = await place.anybody.name()
            assert REASONS[(await place.anybody.delete(queued)).end.reason] == "DELETED"
            assert STATES[(await place.anybody.delete(active)).state] == "ENDED"
            await stream.until_over()
            await viewer.until_over()
        assert stream.end_reason == viewer.end_reason == "DELETED"
        assert stream.error is None
        assert viewer.error is None
        await until(lambda: not place.stage.sessions and not place.decoder.sessions)


async def test_a_deleted_session_gives_its_place_to_the_next() -> None:
    async with town(stages=[FakeStage(capacity=1)]) as place:
        first, second = await place.anybody.name(), await place.anybody.name(num_blocks=1)
        async with place.anybody.attached(second) as stream:
            await place.anybody.delete(first)
            await stream.until_over()
        assert stream.end_reason == "COMPLETE"


async def test_a_model_without_positions_left_ends_a_session() -> None:
    async with town(stages=[FakeStage(max_blocks=5)]) as place:
        async with place.anybody.attached(await place.anybody.name()) as stream:
            await stream.until_over()
        assert (stream.end_reason, stream.sequences) == ("POSITIONS_EXHAUSTED", [1, 2, 3, 4, 5])


async def test_a_session_with_a_length_beyond_the_positions_ends_where_they_do() -> None:
    async with town(stages=[FakeStage(max_blocks=5)]) as place:
        async with place.anybody.attached(await place.anybody.name(num_blocks=9)) as stream:
            await stream.until_over()
        assert (stream.end_reason, stream.sequences) == ("POSITIONS_EXHAUSTED", [1, 2, 3, 4, 5])


async def test_a_session_that_nobody_controls_ends() -> None:
    async with town() as place:
        name = await place.anybody.name(idle_timeout=duration(1))
        async with place.anybody.attached(name, role=VIEWER) as viewer:
            await viewer.until_over()
        assert viewer.end_reason == "IDLE"
        name = await place.anybody.name(idle_timeout=duration(1))
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(5)
            await asyncio.sleep(1.2)
            assert not stream.is_over
        await place.anybody.until_state(name, "ENDED")


async def test_waiting_in_the_queue_is_not_idleness() -> None:
    async with town(stages=[]) as place:
        name = await place.anybody.name(idle_timeout=duration(1))
        await asyncio.sleep(1.3)
        assert STATES[(await place.anybody.get(name)).state] == "QUEUED"


async def test_a_tenants_limit_on_the_length_evicts(tmp_path) -> None:  # type: ignore[no-untyped-def]
    quotas = tmp_path / "quotas.toml"
    quotas.write_text('[[tenants]]\nname = "default"\nmax_session_s = 0.5\n')
    async with town(quotas_file=quotas) as place:
        async with place.anybody.attached(await place.anybody.name()) as stream:
            await stream.until_over()
        assert stream.end_reason == "EVICTED"
        assert stream.all("ended")[0].status.message


async def test_a_prompt_that_the_model_cannot_take_fails_the_start() -> None:
    async with town() as place:
        name = await place.anybody.name(prompts={0: REFUSED})
        async with place.anybody.attached(name) as stream:
            await stream.until_over()
        end = (await place.anybody.get(name)).end
        assert (stream.end_reason, status_reason(end.status)) == ("FAILED", "INVALID_PROMPT")
        assert status_reason(stream.all("ended")[0].status) == "INVALID_PROMPT"


async def test_the_queue_tells_positions_and_an_estimate() -> None:
    async with town(stages=[FakeStage(capacity=1)]) as place:
        names = [await place.anybody.name(num_blocks=8) for _ in range(4)]
        queue = (await place.anybody.get(names[3])).queue
        assert (queue.position, queue.queue_length) == (3, 3)
        async with place.anybody.attached(names[3]) as last:
            assert last.all("attached")[0].session.queue.position == 3
            for told, name in enumerate(names[:2], 1):
                await place.anybody.delete(name)
                await last.until(lambda told=told: len(last.all("queue_changed")) == told)
            await place.anybody.delete(names[2])
            await last.until_over()
        assert [event.position for event in last.all("queue_changed")] == [2, 1]
        assert last.end_reason == "COMPLETE"


async def test_an_estimate_comes_with_the_pace() -> None:
    async with town(stages=[FakeStage(capacity=1)]) as place:
        for _ in range(3):
            async with place.anybody.attached(await place.anybody.name(num_blocks=1)) as stream:
                await stream.until_over()
        await place.anybody.name()
        waiting = await place.anybody.get(await place.anybody.name())
        assert waiting.queue.HasField("eta")
        assert waiting.queue.eta.ToMilliseconds() >= 0


async def test_a_session_in_the_queue_takes_switches_pause_and_delete() -> None:
    stage = FakeStage(capacity=1)
    async with town(stages=[stage]) as place:
        holder = await place.anybody.name()
        name = await place.anybody.name(num_blocks=3)
        async with place.anybody.attached(name) as stream:
            receipt = await place.anybody.switch(name, "a blue square", "s1")
            assert receipt.state == pb.SWITCH_STATE_ACCEPTED
            assert (await place.anybody.pause(name)).paused
            await place.anybody.delete(holder)
            await asyncio.sleep(0.3)
            assert not stream.segments, "it starts paused"
            await place.anybody.resume(name)
            applied = await stream.receipt("s1")
            await stream.until_over()
        assert stream.sequences == [1, 2, 3]
        assert applied.first_block_touched == 0
        at = stream.position("prompt_receipt", lambda item: item.state == pb.SWITCH_STATE_APPLIED)
        assert at < stream.position("segment")


async def test_priority_goes_before_arrival() -> None:
    async with town(stages=[FakeStage(capacity=1)]) as place:
        holder = await place.anybody.name()
        low = await place.anybody.name(priority=pb.PRIORITY_LOW)
        normal = await place.anybody.name()
        high = await place.anybody.name(priority=pb.PRIORITY_HIGH)
        names = (high, normal, low)
        positions = [(await place.anybody.get(name)).queue.position for name in names]
        assert positions == [1, 2, 3]
        await place.anybody.delete(holder)
        assert STATES[(await place.anybody.until_state(high, "ACTIVE")).state] == "ACTIVE"
        assert (await place.anybody.get(normal)).queue.position == 1


async def test_quotas_name_themselves(tmp_path) -> None:  # type: ignore[no-untyped-def]
    quotas = tmp_path / "quotas.toml"
    quotas.write_text('[[tenants]]\nname = "default"\nmax_sessions = 2\nmax_priority = "normal"\n')
    async with town(quotas_file=quotas) as place:
        with fails("PERMISSION_DENIED PERMISSION_DENIED"):
            await place.anybody.create(priority=pb.PRIORITY_HIGH)
        names = [await place.anybody.name() for _ in range(2)]
        with fails("RESOURCE_EXHAUSTED QUOTA_EXCEEDED") as details:
            await place.anybody.create()
        assert details[0]["QuotaFailure"].violations[0].subject == "tenant:default"
        await place.anybody.delete(names[0])
        await place.anybody.create()


async def test_twenty_creations_at_once_stay_within_the_quota() -> None:
    async with town(max_sessions_per_tenant=3) as place:
        calls = (place.anybody.create() for _ in range(20))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(not isinstance(result, Exception) for result in results) == 3


async def test_calls_are_limited_and_the_answer_says_when_to_come_back() -> None:
    async with town(max_calls_per_s=1.0) as place:
        name = await place.anybody.name()
        with fails("RESOURCE_EXHAUSTED RATE_LIMITED") as details:
            for _ in itertools.repeat(None, 20):
                await place.anybody.get(name)
        assert 0 < details[0]["RetryInfo"].retry_delay.ToMilliseconds() <= 1000


async def test_a_full_queue_refuses() -> None:
    async with town(stages=[], queue_length=2) as place:
        for _ in range(2):
            await place.anybody.create()
        with fails("RESOURCE_EXHAUSTED QUEUE_FULL") as details:
            await place.anybody.create()
        assert details[0]["RetryInfo"].HasField("retry_delay")


async def test_an_unknown_model_and_media_nobody_offers_are_refused() -> None:
    async with town() as place:
        with fails("NOT_FOUND UNKNOWN_MODEL", known="demo"):
            await place.anybody.create(model="other")
        with fails("INVALID_ARGUMENT UNSUPPORTED_MEDIA") as details:
            await place.anybody.create(width=4096, height=4096)
        assert details[0]["BadRequest"].field_violations[0].field == "spec.width"
        with fails("INVALID_ARGUMENT UNSUPPORTED_MEDIA") as details:
            await place.anybody.create(profiles=[{"id": "a", "encoder": 2}])
        assert details[0]["BadRequest"].field_violations[0].field.startswith("spec.profiles")


async def test_a_size_that_the_models_vae_does_not_take_is_refused() -> None:
    stage = FakeStage()
    stage.info.size_multiple = 32
    async with town(stages=[stage]) as place:
        assert await place.anybody.create(width=96, height=64)
        with fails("INVALID_ARGUMENT INVALID_FIELD") as details:
            await place.anybody.create(width=96, height=48)
        (violation,) = details[0]["BadRequest"].field_violations
        assert (violation.field, violation.description) == (
            "spec.height",
            "48 is not a multiple of 32, which demo wants",
        )


async def test_a_pause_stops_at_the_next_block_and_keeps_the_place() -> None:
    async with town(stages=[FakeStage(block_s=0.02)]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            await place.anybody.pause(name)
            await asyncio.sleep(0.3)
            count = len(stream.segments)
            await asyncio.sleep(0.3)
            assert len(stream.segments) == count
            assert place.stage.sessions
            assert STATES[(await place.anybody.get(name)).state] == "PAUSED"
            await place.anybody.resume(name)
            await stream.until_segments(count + 3)
        assert stream.sequences == list(range(1, len(stream.sequences) + 1))
        assert {segment.epoch for segment in stream.segments} == {1}


@pytest.mark.parametrize("priority", ["PRIORITY_LOW", "PRIORITY_NORMAL"])
async def test_a_pause_gives_its_place_away_and_comes_back(priority: str) -> None:
    async with town(stages=[FakeStage(capacity=1)], decoders=[FakeDecoder(capacity=1)]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            await place.anybody.pause(name)
            await stream.until(lambda: stream.states[-1] == "PAUSED")
            other = await place.anybody.name(num_blocks=3, priority=pb.Priority.Value(priority))
            async with place.anybody.attached(other) as needy:
                await needy.until_over()
            assert needy.end_reason == "COMPLETE"
            assert STATES[(await place.anybody.get(name)).state] == "PAUSED"
            made = len(stream.segments)
            await place.anybody.resume(name, fresh_id())
            await stream.until_segments(made + 5)
            lasting = [state for state in stream.states if state != "STARTING"]  # which may be over at once
            assert lasting[-3:] == ["PAUSED", "QUEUED", "ACTIVE"], stream.states
            assert stream.sequences == list(range(1, len(stream.sequences) + 1))
            assert [mark.block for mark in stream.marks] == list(range(len(stream.marks)))
            assert stream.segments[-1].epoch > 1
            assert (await place.anybody.get(name)).epoch == stream.segments[-1].epoch


async def test_a_session_resumes_although_the_queue_is_full() -> None:
    async with town(stages=[FakeStage(capacity=1)], queue_length=1) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            await place.anybody.pause(name)
            holder, waiting = await place.anybody.name(), ""
            await place.anybody.until_state(holder, "ACTIVE")
            waiting = await place.anybody.name()
            await place.anybody.resume(name)
            made = len(stream.segments)
            assert (await place.anybody.until_state(name, "QUEUED")).state
            await place.anybody.delete(holder)
            await place.anybody.delete(waiting)
            await stream.until_segments(made + 3)
        assert stream.sequences == list(range(1, len(stream.sequences) + 1))


async def test_a_journal_without_room_for_another_session_refuses_it() -> None:
    mib = 2**20
    async with town(stages=[], journal_bytes=mib + mib // 2, session_bytes=mib) as place:
        name = await place.anybody.name()
        with fails("RESOURCE_EXHAUSTED OVERLOADED") as details:
            await place.anybody.create()
        assert details[0]["RetryInfo"].HasField("retry_delay")
        await place.anybody.delete(name)
        await place.anybody.create()
