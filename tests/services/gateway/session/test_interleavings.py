"""What happens between two steps of a gateway: a call cancelled while the journal answers, two that find the
same orphan, a loss or a takeover during a pause."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from cascade.v1 import decoder_pb2
from cascade.v1 import session_pb2 as pb
from services.gateway.api import creation
from services.gateway.journal import Change, MemoryJournal, Noted, Requested
from services.gateway.journal.errors import LeaseLost
from services.gateway.placement.claims import Places
from services.gateway.session import views
from services.gateway.session.conductor import Conductor
from services.gateway.session.live import LiveSession
from services.gateway.session.over import SessionOver
from tests.services.support import fake_decoder
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import (
    CONTROLLER,
    PROMPT,
    STATES,
    VIEWER,
    WAIT_S,
    Town,
    duration,
    fresh_id,
    reason_of,
    town,
    until,
)


class Held:
    """The journal has done something, and is slow to say so, once."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        method: str,
        fits: Callable[..., bool] = lambda *_: True,
    ) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        original = getattr(MemoryJournal, method)

        async def held(journal: MemoryJournal, *arguments: Any, **options: Any) -> Any:
            answer = await original(journal, *arguments, **options)
            if fits(*arguments) and not self.reached.is_set():
                self.reached.set()
                async with asyncio.timeout(WAIT_S):
                    await self.go_on.wait()
            return answer

        monkeypatch.setattr(MemoryJournal, method, held)

    async def until_reached(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.reached.wait()


def asks(*names: str) -> Callable[..., bool]:
    """Whether a write has a note of one of these names."""
    return lambda _, *changes: any(isinstance(item, Noted) and item.name in names for item in changes)


async def orphan(place: Town) -> str:
    """The id of a session whose owner is gone."""
    request = pb.CreateSessionRequest(request_id=fresh_id(), spec={"prompts": {0: PROMPT}})
    shared = place.registry.shared
    new = creation.complete(request, "default", shared)
    await shared.journal.create(new, "127.0.0.1:1/gone", 0.0)
    return new.session


def stage_of(place: Town) -> FakeStage | None:
    """Where a session is; None: nowhere now."""
    return next((stage for stage in place.stages if stage.sessions), None)


async def lose_stage(place: Town) -> None:
    """Until another one has its session."""
    former = stage_of(place)
    assert former
    await former.kill()
    await until(lambda: stage_of(place) not in (None, former))


async def test_an_end_that_meets_a_claim_is_journalled_under_the_new_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = [FakeStage(), FakeStage()]
    async with town(stages=stages, lease_s=5.0) as place:
        name = await place.anybody.name(idle_timeout=duration(1.0))
        await place.anybody.until_state(name, "ACTIVE")
        claim = Held(monkeypatch, "advance")
        losing = asyncio.create_task(lose_stage(place))
        await claim.until_reached()
        await asyncio.sleep(1.2)  # beyond the idle timeout
        claim.go_on.set()
        losing.cancel()
        ended = await place.anybody.until_state(name, "ENDED")
        assert (ended.end.reason, ended.epoch) == (pb.END_REASON_IDLE, 2)


async def test_a_pause_whose_call_is_cancelled_is_repeated_with_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(stages=[FakeStage(block_s=0.01)]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)
            write = Held(monkeypatch, "write", asks(views.PAUSED))
            request = pb.PauseSessionRequest(name=name, request_id="p1")
            call = place.anybody.stub.PauseSession(request, timeout=WAIT_S)
            await write.until_reached()
            call.cancel()
            await asyncio.sleep(0.2)
            write.go_on.set()
            await stream.until_segments(len(stream.segments) + 3)
            assert (await place.anybody.pause(name, "p1")).paused
            await stream.until(lambda: stream.states[-1] == "PAUSED")


async def test_an_orphan_that_several_find_at_once_is_taken_over_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(lease_s=5.0) as place:
        session = await orphan(place)
        claim = Held(monkeypatch, "claim")
        looks = [asyncio.create_task(place.registry.locate(session, "default")) for _ in range(3)]
        await claim.until_reached()
        looks.append(asyncio.create_task(place.registry.locate(session, "default")))
        await asyncio.sleep(0.05)
        looks[0].cancel()
        claim.go_on.set()
        async with asyncio.timeout(WAIT_S):
            found = await asyncio.gather(*looks[1:])
        assert [live is found[0] for live in found] == [True] * 3
        assert found[0].lease.epoch == 2
        assert place.registry.find(session) is found[0]


async def test_a_look_during_a_creation_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with town(lease_s=5.0) as place:
        create = Held(monkeypatch, "create")
        creating = asyncio.create_task(place.anybody.create(session_id="early", num_blocks=4))
        await create.until_reached()
        looking = asyncio.create_task(place.anybody.get("sessions/early"))
        await asyncio.sleep(0.2)
        create.go_on.set()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(creating, looking)
        async with place.anybody.attached("sessions/early") as stream:
            await stream.until_over()
        assert stream.error is None
        assert stream.end_reason == "COMPLETE"
        assert {segment.epoch for segment in stream.segments} == {1}


async def test_a_conductor_that_leaves_late_does_not_take_its_successor_along() -> None:
    async with town(lease_s=5.0) as place:
        name = await place.anybody.name()
        await place.anybody.until_state(name, "ACTIVE")
        registry, session = place.registry, name.removeprefix("sessions/")
        journal, owner = registry.shared.journal, registry.shared.owner
        former = registry._runs[session]
        registry._conductors.pop(session)
        lease = await journal.claim(session, owner, 5.0)
        live = registry.run(await journal.load(session), lease, is_taken_over=True)
        await asyncio.wait({former}, timeout=WAIT_S)
        assert former.done()
        assert registry.find(session) is live
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)


async def test_a_deletion_that_loses_its_lease_is_done_by_the_next_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end, failures = Conductor._end, [0]

    async def fenced_once(self: Conductor, over: SessionOver) -> None:
        if not failures[0]:
            failures[0] = 1
            raise LeaseLost("another owner", epoch=9)
        await end(self, over)

    monkeypatch.setattr(Conductor, "_end", fenced_once)
    async with town(lease_s=0.5) as place:
        name = await place.anybody.name()
        await place.anybody.until_state(name, "ACTIVE")
        deleted = await place.anybody.delete(name)
        assert failures == [1]
        assert STATES[deleted.state] == "ENDED"
        assert deleted.end.reason == pb.END_REASON_DELETED


async def test_a_viewer_that_is_slower_than_what_is_kept_jumps_to_the_edge() -> None:
    async with town(
        decoders=[FakeDecoder(segment_bytes=400_000)],
        kept_segments=2,
        max_unacked_segments=2,
        max_unacked_limit=2,
    ) as place:
        name = await place.anybody.name(num_blocks=30)
        viewer = place.anybody.stream(acks=False)
        await viewer.send(attach={"name": name, "role": VIEWER})
        await until(lambda: place.registry.sessions[0].num_viewers)
        async with place.anybody.attached(name) as stream:
            await stream.until_sequence(29)
            viewer.start()
            await viewer.until_segments(1)
            await stream.until_over()
        await viewer.until_over()
        assert viewer.error is None, viewer.error
        assert viewer.all("skipped")
        assert viewer.sequences[-1] == 30
        assert viewer.end_reason == "COMPLETE"


async def test_a_controller_is_not_led_over_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had acknowledged may go while it is on its way: it attaches again and is told from where on."""
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(5)
        live = place.registry.sessions[0]
        monkeypatch.setattr(type(live), "segment", lambda *_: None)
        late = place.anybody.stream(acks=False)
        await late.send(attach={"name": name, "role": CONTROLLER})
        late.start()
        await late.until_over()
        assert not late.sequences
        assert late.error
        assert reason_of(late.error) == "UNAVAILABLE NOT_READY"


async def test_a_place_found_during_a_pause_is_offered_too() -> None:
    stages = [FakeStage(capacity=1), FakeStage(capacity=1)]
    async with town(stages=stages) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            await place.anybody.pause(name)
            await stream.until(lambda: stream.states[-1] == "PAUSED")
            await lose_stage(place)
            await stream.until(lambda: stream.states[-1] == "PAUSED")
            other = await place.anybody.name(num_blocks=3)
            async with place.anybody.attached(other) as needy:
                await needy.until_over()
            assert needy.end_reason == "COMPLETE"


async def test_a_session_whose_place_went_after_a_loss_is_paused_then_queued() -> None:
    stages = [FakeStage(capacity=1), FakeStage(capacity=1)]
    async with town(stages=stages, recovery_timeout_s=1.0) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            await place.anybody.pause(name)
            await stream.until(lambda: stream.states[-1] == "PAUSED")
            await lose_stage(place)
            await stream.until(lambda: stream.states[-2:] == ["RECOVERING", "PAUSED"])
            holder = await place.anybody.name()
            await place.anybody.until_state(holder, "ACTIVE")
            assert STATES[(await place.anybody.get(name)).state] == "PAUSED"
            made = len(stream.segments)
            await place.anybody.resume(name)
            await stream.until(lambda: stream.states[-1] == "QUEUED")
            await asyncio.sleep(1.3)  # beyond the recovery timeout
            assert STATES[(await place.anybody.get(name)).state] == "QUEUED"
            await place.anybody.delete(holder)
            await stream.until_segments(made + 3)
        assert stream.sequences == list(range(1, len(stream.sequences) + 1))
        assert len(stream.all("recovery_done")) == len(stream.all("recovery_started")) == 1


async def test_a_paused_session_that_is_taken_over_needs_no_place() -> None:
    async with town(stages=[FakeStage(capacity=1)], recovery_timeout_s=0.5, lease_s=0.5) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            await place.anybody.pause(name)
            await stream.until(lambda: stream.states[-1] == "PAUSED")
            made = stream.sequences[-1]
        place.registry._runs[name.removeprefix("sessions/")].cancel()
        holder = await place.anybody.name()
        await place.anybody.until_state(holder, "ACTIVE")
        assert STATES[(await place.anybody.get(name)).state] == "PAUSED"
        await asyncio.sleep(0.8)  # beyond the recovery timeout
        session = await place.anybody.get(name)
        assert (STATES[session.state], session.epoch) == ("PAUSED", 2)
        await place.anybody.delete(holder)
        await place.anybody.resume(name)
        async with place.anybody.attached(name, after_sequence=made) as stream:
            await stream.ack(made)
            await stream.until_segments(3)
            assert stream.sequences[:3] == [made + 1, made + 2, made + 3]


async def test_a_stage_that_goes_before_its_model_is_noted_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    note = Conductor._note_model

    async def too_late(self: Conductor, places: Places) -> None:
        places.stage.peer.lose("is gone")
        await note(self, places)

    async with town() as place:
        monkeypatch.setattr(Conductor, "_note_model", too_late)
        name = await place.anybody.name(num_blocks=12)
        async with place.anybody.attached(name) as stream:
            await stream.until_over()
        assert stream.end_reason == "COMPLETE"
        session = await place.anybody.get(name)
        assert (session.block_frames, session.spec.fps) == (3, 16)


async def test_a_decoder_that_counts_wrong_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    segment_of, failures = fake_decoder.segment_of, [0]

    def wrong_once(*arguments: Any) -> decoder_pb2.DecodeResponse:
        response = segment_of(*arguments)
        if response.segment.media.block == 3 and not failures[0]:
            failures[0] = 1
            response.segment.media.block = 5
        return response

    monkeypatch.setattr(fake_decoder, "segment_of", wrong_once)
    async with town(decoders=[FakeDecoder(), FakeDecoder()]) as place:
        name = await place.anybody.name(num_blocks=8)
        async with place.anybody.attached(name) as stream:
            await stream.until_over()
        assert stream.end_reason == "COMPLETE"
        assert [mark.block for mark in stream.marks] == list(range(8))


async def test_a_message_that_meets_a_takeover_ends_the_stream_to_be_said_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = LiveSession.write

    async def fenced(self: LiveSession, *changes: Change, **options: Any) -> None:
        if any(isinstance(change, Requested) for change in changes):
            raise LeaseLost("another owner", epoch=9)
        await write(self, *changes, **options)

    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_segments(1)
            monkeypatch.setattr(LiveSession, "write", fenced)
            await stream.send(set_paused={"request_id": "p1", "paused": True})
            await stream.until_over()
        assert not stream.all("request_failed")
        assert isinstance(stream.error, grpc.aio.AioRpcError)
        assert reason_of(stream.error) == "UNAVAILABLE NOT_READY"


async def test_a_session_that_left_leaves_no_number_behind() -> None:
    async with town(lease_s=5.0) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)
        place.registry._runs[name.removeprefix("sessions/")].cancel()
        await until(lambda: not place.registry.sessions)
        assert not place.registry.shared.metrics._due
