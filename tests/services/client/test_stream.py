# ruff: noqa: SIM117 - the outer block is the scene, the inner one what is tried
"""Streams against a real server that loses, repeats, moves and refuses: what the consumer sees of it."""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
import pytest

from cascade.v1 import session_pb2
from cascade_client import (
    Attached,
    Client,
    Ended,
    Event,
    MediaInit,
    Playback,
    PromptReceipt,
    QueueChanged,
    Reconnected,
    RecoveryDone,
    RecoveryStarted,
    Segment,
    SequenceGap,
    Session,
    Skipped,
    StateChanged,
    Stream,
)
from cascade_client.errors import (
    Exhausted,
    NotAllowed,
    NotFound,
    Replaced,
    ServerFault,
    Unavailable,
    WrongState,
)
from cascade_client.resume import RetryBackoff
from tests.services.support.fake_gateway import (
    Code,
    FakeGateway,
    FakeSession,
    Script,
    failure,
    retry_info,
    serving,
)

WAIT_S = 30.0
E = TypeVar("E")
NUM_BLOCKS = 8


@asynccontextmanager
async def session_at(
    script: Script, num_blocks: int | None = NUM_BLOCKS
) -> AsyncIterator[tuple[FakeGateway, Client, Session]]:
    async with asyncio.timeout(WAIT_S), serving(script) as gateway, Client(gateway.address) as client:
        yield gateway, client, await client.create("a red circle", num_blocks=num_blocks)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def everything(stream: Stream) -> list[Event]:
    return [event async for event in stream]


async def collect(stream: Stream, seen: list[Event]) -> None:
    async for event in stream:
        seen.append(event)


def sequences(events: Sequence[Event]) -> list[int]:
    return [event.sequence for event in events if isinstance(event, Segment)]


def only(events: Sequence[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


async def test_a_quiet_session_from_queue_to_end() -> None:
    async with session_at(Script(num_queued=2)) as (gateway, client, session):
        async with client.connect(session) as stream:
            events = await everything(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        assert [type(event) for event in events[:6]] == [
            Attached, MediaInit, QueueChanged, QueueChanged, StateChanged, Segment
        ]  # fmt: skip
        assert sequences(events) == list(range(1, NUM_BLOCKS + 1))
        assert [event.block for event in only(events, Segment)] == list(range(NUM_BLOCKS))
        first, second = only(events, Segment)[:2]
        assert (first.num_frames, first.time_s, second.first_frame, second.time_s) == (9, 0, 9, 9 / 16)
        queued = only(events, QueueChanged)
        assert [(each.position, each.queue_length, each.eta_s) for each in queued] == [
            (2, 2, 2.0),
            (1, 1, 1.0),
        ]
        assert isinstance(events[-1], Ended)
        assert (events[-1].reason, events[-1].last_sequence, events[-1].error) == (
            "COMPLETE",
            NUM_BLOCKS,
            None,
        )
        acks = gateway.seen.acks  # of several that wait the newest goes: it stands for all
        assert (acks, acks[-1]) == (sorted(set(acks)), NUM_BLOCKS)
        assert gateway.seen.connect_deadlines_s == [None], "Connect must have no deadline"
        assert gateway.seen.attaches[0].client.startswith("cascade_client/")


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED, Code.INTERNAL, Code.UNKNOWN])
async def test_a_lost_stream_is_resumed_without_a_seam(code: grpc.StatusCode) -> None:
    script = Script(lose_before=[3, 6], loss=failure(code, "SESSION_LOST"), num_repeated=2)
    async with session_at(script) as (gateway, client, session), client.connect(session) as stream:
        events = await everything(stream)
    assert sequences(events) == list(range(1, NUM_BLOCKS + 1)), (
        "each once, in order, though two were repeated"
    )
    assert stream.num_repeated == 4 - max(0, 2 - gateway.seen.attaches[1].after_sequence)
    first, second, third = (attach.after_sequence for attach in gateway.seen.attaches)
    assert first == 0 < second <= 2 < third <= 5, "a loss may take what was under way with it"
    assert len({attach.resume_token for attach in gateway.seen.attaches}) == 3, "the newest token each time"
    back = only(events, Reconnected)
    assert [each.attempts for each in back] == [1, 1]
    assert [each.reason for each in back] == ["session_lost"] * 2
    assert len(only(events, Attached)) == len(only(events, MediaInit)) == 1
    assert isinstance(events[-1], Ended)


async def test_acks_lost_with_a_stream_are_told_again() -> None:
    """Else the session would stand still for good."""
    async with session_at(Script(lose_before=[5])) as (gateway, client, session):
        async with client.connect(session, auto_ack=False) as stream:
            seen: list[Event] = []
            async for event in stream:
                seen.append(event)
                if isinstance(event, Segment) and event.sequence == 4:
                    stream.ack(4, Playback(event.time_s))
                if isinstance(event, Reconnected):
                    break
            gateway.seen.acks.clear()
            gateway.seen.requests.clear()
            async for event in stream:
                seen.append(event)
                if isinstance(event, Segment):
                    stream.ack(event.sequence)
    assert gateway.seen.acks[0] == 4
    assert not said(gateway), "what a player had before the loss is no news any more"
    assert sequences(seen) == list(range(1, NUM_BLOCKS + 1))


async def test_ok_without_ended_is_a_loss_too() -> None:
    async with session_at(Script(finish_before=[2])) as (_, client, session):
        async with client.connect(session) as stream:
            events = await everything(stream)
    assert sequences(events) == list(range(1, NUM_BLOCKS + 1))
    assert [each.reason for each in only(events, Reconnected)] == ["the stream ended before the session"]


async def test_reconnect_notice_moves_on_a_new_connection_while_the_old_stream_goes_on() -> None:
    async with session_at(Script(reconnect_before=[3], pace_s=0.05), 30) as (gateway, client, session):
        async with client.connect(session) as stream:
            events = await everything(stream)
    assert sequences(events) == list(range(1, 31))
    assert len(gateway.seen.attaches) == 2
    assert len(set(gateway.seen.connections)) == 2, "the old connection leads to the gateway that goes away"
    assert [each.reason for each in only(events, Reconnected)] == ["the gateway goes away"]


async def test_a_gateway_that_leaves_is_not_asked_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    next_s = RetryBackoff.next_s
    monkeypatch.setattr(RetryBackoff, "next_s", lambda *values: waits.append(None) or next_s(*values))
    sessions: dict[str, FakeSession] = {}
    script = Script(reconnect_before=[3], pace_s=0.05)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with (
            asyncio.timeout(WAIT_S),
            serving(Script(), sessions=sessions) as staying,
            serving(script, sessions=sessions) as leaving,
            Client(f"{leaving.address},{dead},{staying.address}") as client,
        ):
            session = await client.create("a red circle", num_blocks=30)
            async with client.connect(session) as stream:
                events = await everything(stream)
    assert sequences(events) == list(range(1, 31))
    assert [len(leaving.seen.attaches), len(staying.seen.attaches)] == [1, 1]
    assert [each.attempts for each in only(events, Reconnected)] == [2], "the one not there came first"
    assert not waits, "nobody was waited for"


async def test_a_gateway_that_leaves_alone_is_asked_again() -> None:
    """Where nobody else answers, its address may lead to another by now."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with (
            asyncio.timeout(WAIT_S),
            serving(Script(reconnect_before=[3], pace_s=0.05)) as leaving,
            Client(f"{leaving.address},{dead}") as client,
        ):
            session = await client.create("a red circle", num_blocks=30)
            async with client.connect(session) as stream:
                events = await everything(stream)
    assert sequences(events) == list(range(1, 31))
    assert [each.attempts for each in only(events, Reconnected)] == [2]


async def test_another_gateway_takes_over() -> None:
    sessions: dict[str, FakeSession] = {}
    async with asyncio.timeout(WAIT_S), serving(Script(pace_s=0.02), sessions=sessions) as second:
        async with serving(Script(), sessions=sessions) as first:
            client = Client(f"{first.address},{second.address}")
            session = await client.create("a red circle", num_blocks=NUM_BLOCKS)
            sessions["sessions/s1"].script = Script()
            stream = await client.connect(session).__aenter__()
            events = [await anext(stream) for _ in range(5)]
        events += await everything(stream)
        await stream.__aexit__(None, None, None)
        await client.close()
    assert sequences(events) == list(range(1, NUM_BLOCKS + 1))
    assert len(second.seen.attaches) == 1


async def test_a_gap_is_an_error_that_names_it() -> None:
    async with session_at(Script(skip=[4])) as (_, client, session), client.connect(session) as stream:
        seen: list[Event] = []
        with pytest.raises(SequenceGap, match="segments 4 to 4 are missing: 5 came after 3") as caught:
            await collect(stream, seen)
        with pytest.raises(SequenceGap):
            await anext(stream)
    assert (caught.value.expected, caught.value.received) == (4, 5)
    assert sequences(seen) == [1, 2, 3], "what came before the gap is given out first"


async def test_recovery_notices_and_renewed_tokens() -> None:
    script = Script(recover_before=[3], renew_before=[4], lose_before=[8])
    async with session_at(script) as (gateway, client, session), client.connect(session) as stream:
        events = await everything(stream)
        assert stream.resume_token == gateway.sessions[session.name].tokens[-1]
    assert sequences(events) == list(range(1, NUM_BLOCKS + 1))
    assert [each.cause for each in only(events, RecoveryStarted)] == ["STAGE_LOST"]
    done = only(events, RecoveryDone)
    assert [(each.recovery_class, each.epoch, each.first_sequence, each.gap_s) for each in done] == [
        ("REBUILT", 2, 3, 1.25)
    ]
    assert [each.epoch for each in only(events, Segment)] == [1, 1, 2, 2, 2, 2, 2, 2]


async def test_an_expired_token_gives_way_to_the_callers_credential() -> None:
    async with session_at(Script()) as (gateway, client, session):
        gateway.sessions[session.name].tokens.clear()
        async with client.connect(session) as stream:
            assert sequences(await everything(stream)) == list(range(1, NUM_BLOCKS + 1))
    assert [bool(attach.resume_token) for attach in gateway.seen.attaches] == [True, False]


async def test_attaching_is_tried_again_only_where_that_can_help() -> None:
    passing = [
        failure(Code.UNAVAILABLE, "DRAINING", "", retry_info(0)),
        failure(Code.RESOURCE_EXHAUSTED, "OVERLOADED", "", retry_info(0.01)),
        failure(Code.DEADLINE_EXCEEDED, "FIRST_MESSAGE_LATE"),
    ]
    async with session_at(Script(attach_failures=deque(passing))) as (gateway, client, session):
        async with client.connect(session) as stream:
            await everything(stream)
        assert len(gateway.seen.attaches) == 4
    for code, reason, kind in [
        (Code.RESOURCE_EXHAUSTED, "OUT_OF_CAPACITY", Exhausted),
        (Code.UNAUTHENTICATED, "UNAUTHENTICATED", NotAllowed),
        (Code.FAILED_PRECONDITION, "SESSION_CLOSED", WrongState),
    ]:
        script = Script(attach_failures=deque([failure(code, reason)]))
        async with session_at(script) as (gateway, client, session):
            with pytest.raises(kind):
                async with client.connect(session):
                    raise AssertionError
            assert len(gateway.seen.attaches) == 1


async def test_a_defect_is_tried_once_more_then_told() -> None:
    defect = failure(Code.INTERNAL, "INTERNAL", "internal error")
    async with session_at(Script(attach_failures=deque([defect, defect, defect]))) as (
        gateway,
        client,
        session,
    ):
        with pytest.raises(ServerFault) as caught:
            async with client.connect(session):
                raise AssertionError
    assert len(gateway.seen.attaches) == 2
    assert caught.value.request_id == "call-1"


async def test_giving_up_has_a_limit() -> None:
    script = Script(lose_before=[3], attach_failures=deque())
    async with session_at(script) as (_gateway, client, session):
        async with client.connect(session, give_up_after_s=0.5) as stream:
            script.attach_failures.extend(failure(Code.UNAVAILABLE, "NOT_READY") for _ in range(50))
            seen: list[Event] = []
            with pytest.raises(Unavailable):
                await collect(stream, seen)
    assert sequences(seen) == [1, 2]


async def test_a_session_that_is_gone_is_not_found() -> None:
    async with session_at(Script()) as (_, client, _session):
        with pytest.raises(NotFound):
            async with client.connect("nothing"):
                raise AssertionError


async def test_another_controller_replaces_this_one_for_good() -> None:
    async with session_at(Script(pace_s=0.02), None) as (gateway, client, session):
        async with client.connect(session) as first:
            await anext(first)
            async with client.connect(session) as second:
                with pytest.raises(Replaced) as caught:
                    await everything(first)
                await anext(second)
    assert caught.value.reason == "CONTROLLER_REPLACED"
    assert len(gateway.seen.attaches) == 2, "no fight"


async def test_switch_returns_the_receipt_and_tells_the_rest_as_events() -> None:
    async with session_at(Script(), 12) as (_gateway, client, session), client.connect(session) as stream:
        seen: list[Event] = []
        async for event in stream:
            seen.append(event)
            if isinstance(event, Segment) and event.sequence == 2:
                receipt = await stream.switch("a blue zorp", mode="recache", at_block=8)
                assert (receipt.state, receipt.first_block_touched) == ("ACCEPTED", None)
    accepted, applied = only(seen, PromptReceipt)
    assert accepted == receipt
    assert (applied.state, applied.first_block_touched, applied.first_block_full) == ("APPLIED", 8, 10)
    assert applied.touched_time_s == (12 * 8 - 3) / 16
    assert applied.unknown_words == ("zorp",)
    place = seen.index(applied)
    assert next(event.block for event in only(seen[place:], Segment)) == 8, "before the segment it touches"


async def test_a_switch_lost_with_the_stream_is_sent_again_under_the_same_id() -> None:
    async with session_at(Script(lose_on_switch=2), 12) as (gateway, client, session):
        async with client.connect(session) as stream:
            receipt = await stream.switch("a blue square")
            await everything(stream)
    sent = [
        each.switch_prompt.request_id
        for each in gateway.seen.requests
        if isinstance(each, session_pb2.ConnectRequest) and each.HasField("switch_prompt")
    ]
    assert sent == [receipt.request_id] * 3
    assert len(gateway.sessions[session.name].receipts) == 1


async def test_wishes_that_were_granted_and_forgotten_are_told_again() -> None:
    """Redis was away, and the gateway died that had granted them: under the same ids, in their order, before
    what is asked since; those that the session knows, or that a later one has replaced, are not."""
    async with session_at(Script(pace_s=0.01), None) as (gateway, client, session):
        async with client.connect(session) as stream:
            seen: list[Event] = []
            reading = asyncio.create_task(collect(stream, seen))
            granted = [await stream.switch(text) for text in ("red", "blue", "green")]
            await stream.pause()
            fake = gateway.sessions[session.name]
            fake.receipts = [fake.receipts[1]]
            fake.message.state, fake.message.paused = session_pb2.SESSION_STATE_ACTIVE, False
            fake.outboxes[0].put_nowait(failure(Code.UNAVAILABLE, "SESSION_LOST"))
            fake.wake()
            await until(lambda: fake.message.paused)
            known = [receipt.request_id for receipt in fake.receipts]
            assert known == [granted[1].request_id, granted[2].request_id]
            await stream.resume()
            await stream.end()
            await reading
        assert len(only(seen, Reconnected)) == 1
        assert [receipt.request_id for receipt in fake.receipts] == known


async def test_what_somebody_else_has_changed_since_is_not_told_again() -> None:
    async with session_at(Script(pace_s=0.01), None) as (gateway, client, session):
        async with client.connect(session) as stream:
            seen: list[Event] = []
            reading = asyncio.create_task(collect(stream, seen))
            await stream.switch("red")
            await stream.pause()
            fake = gateway.sessions[session.name]
            fake.set_state(session_pb2.SESSION_STATE_ACTIVE, paused=False)
            fake.switch("another's", session_pb2.PromptSwitch(text="blue"))
            await until(lambda: any(event.request_id == "another's" for event in only(seen, PromptReceipt)))
            fake.receipts = []
            fake.outboxes[0].put_nowait(failure(Code.UNAVAILABLE, "SESSION_LOST"))
            fake.wake()
            await until(lambda: bool(only(seen, Reconnected)))
            count = len(only(seen, Segment))
            await until(lambda: len(only(seen, Segment)) > count + 3)
            assert not fake.receipts
            assert not fake.message.paused
            await stream.end()
            await reading


async def test_a_forgotten_switch_whose_block_was_made_takes_effect_as_soon_as_it_can() -> None:
    too_late = failure(Code.FAILED_PRECONDITION, "BLOCK_NOT_AHEAD", next_block="9")
    async with session_at(Script(pace_s=0.01), None) as (gateway, client, session):
        async with client.connect(session) as stream:
            reading = asyncio.create_task(collect(stream, []))
            receipt = await stream.switch("red", at_block=2)
            fake = gateway.sessions[session.name]
            fake.receipts, gateway.script.refused_blocks[2] = [], too_late
            fake.outboxes[0].put_nowait(failure(Code.UNAVAILABLE, "SESSION_LOST"))
            fake.wake()
            await until(lambda: bool(fake.receipts))
            assert fake.receipts[0].request_id == receipt.request_id
            await stream.end()
            await reading


async def test_a_refused_switch_raises_and_the_stream_goes_on() -> None:
    refusal = failure(Code.FAILED_PRECONDITION, "BLOCK_NOT_AHEAD", "block 1 has started", next_block="9")
    async with session_at(Script(switch_failure=refusal)) as (_, client, session):
        async with client.connect(session) as stream:
            with pytest.raises(WrongState, match="block 1 has started") as caught:
                await stream.switch("a blue square", at_block=1)
            assert caught.value.metadata["next_block"] == "9"
            assert sequences(await everything(stream)) == list(range(1, NUM_BLOCKS + 1))


async def test_receipts_missed_while_away_come_from_attached() -> None:
    """The stream is lost between ACCEPTED and APPLIED, which another gateway then did."""
    script = Script(lose_before=[4])
    async with session_at(script) as (gateway, client, session):
        async with client.connect(session, auto_ack=False) as stream:
            await stream.switch("a blue square", at_block=3)
            fake = gateway.sessions[session.name]
            script.attach_failures.append(failure(Code.UNAVAILABLE, "NOT_READY"))
            seen: list[Event] = []
            async for event in stream:
                seen.append(event)
                if isinstance(event, Segment):
                    stream.ack(event.sequence)
                    if event.sequence == 3:
                        fake.apply_before(3)
    assert [each.state for each in only(seen, PromptReceipt)] == ["ACCEPTED", "APPLIED"]


async def test_pause_resume_and_end() -> None:
    async with session_at(Script(pace_s=0.01), None) as (_gateway, client, session):
        async with client.connect(session) as stream:
            await anext(stream)
            await stream.pause()
            assert (await client.get(session)).state == "PAUSED"
            await stream.pause()
            await stream.resume()
            assert (await client.get(session)).state == "ACTIVE"
            ended = await stream.end()
            events = await everything(stream)
            with pytest.raises(Unavailable):
                await stream.switch("too late")
    assert events[-1] == ended
    assert ended.reason == "DELETED"
    assert [each.state for each in only(events, StateChanged)][-2:] == ["PAUSED", "ACTIVE"]


async def test_a_consumer_that_stops_stops_the_session_at_its_credit() -> None:
    async with session_at(Script(), None) as (gateway, client, session):
        async with client.connect(session, max_unacked_segments=3) as stream:
            while not isinstance(await anext(stream), Segment):
                pass
            fake = gateway.sessions[session.name]
            await until(lambda: fake.sent >= 3)
            await asyncio.sleep(0.3)
            assert fake.sent == 3
            while not isinstance(await anext(stream), Segment):
                pass
            await until(lambda: fake.sent >= 4)


async def test_acks_are_checked() -> None:
    async with session_at(Script()) as (_, client, session):
        async with client.connect(session, auto_ack=False) as stream:
            with pytest.raises(ValueError, match="segment 1 was not received"):
                stream.ack(1)


async def test_acks_say_what_the_player_has_each_time_once() -> None:
    async with session_at(Script(), None) as (gateway, client, session):
        async with client.connect(session, auto_ack=False) as stream:
            async for event in stream:
                if not isinstance(event, Segment):
                    continue
                number = event.sequence
                stream.ack(number, Playback(event.time_s, 0.5, num_stalls=number))
                await until(lambda number=number: len(said(gateway)) == 2 * number - 1)  # type: ignore[misc]
                stream.ack(number, Playback(event.time_s, event.duration_s, waiting=True))
                await until(lambda number=number: len(said(gateway)) == 2 * number)  # type: ignore[misc]
                if number == NUM_BLOCKS:
                    break
    acks = said(gateway)
    assert [ack.sequence for ack in acks] == [number for number in range(1, NUM_BLOCKS + 1) for _ in "12"]
    assert [ack.playback.num_stalls for ack in acks[::2]] == list(range(1, NUM_BLOCKS + 1))
    assert {ack.playback.buffered.ToMilliseconds() for ack in acks[::2]} == {500}
    assert all(ack.playback.waiting for ack in acks[1::2])


def said(gateway: FakeGateway) -> list[session_pb2.ConnectRequest.Ack]:
    """Acks with a word of the player."""
    asked = [each for each in gateway.seen.requests if isinstance(each, session_pb2.ConnectRequest)]
    return [each.ack for each in asked if each.ack.HasField("playback")]


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf"), 2.0**31 + 1])
async def test_what_no_player_can_have_is_no_playback(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"playhead_s: .* is not from 0 to"):
        Playback(wrong)
    with pytest.raises(ValueError, match=r"buffered_s: .* is not from 0 to"):
        Playback(0.0, wrong)
    with pytest.raises(ValueError, match="num_stalls"):
        Playback(0.0, num_stalls=-1)


async def test_a_viewer_joins_late_skips_and_cannot_steer() -> None:
    script = Script(pace_s=0.02, skip_viewer=[9])
    async with session_at(script, 14) as (_gateway, client, session):
        async with client.connect(session) as controller:
            while controller.last_sequence < 5:
                await anext(controller)
            token, _ = await client.issue_token(session, role="viewer")
            async with client.connect(role="viewer", resume_token=token) as viewer:
                assert viewer.name == session.name
                watching = asyncio.create_task(everything(viewer))
                with pytest.raises(NotAllowed):
                    await viewer.switch("mine")
                await everything(controller)
                seen = await watching
    assert isinstance(seen[0], Attached)
    assert seen[0].role == "VIEWER"
    assert sequences(seen)[0] >= 4
    assert [(each.first_sequence, each.next_sequence) for each in only(seen, Skipped)] == [(9, 10)]
    assert sequences(seen) == [
        each for each in range(sequences(seen)[0], sequences(seen)[-1] + 1) if each != 9
    ]


async def test_another_process_goes_on_where_this_one_stopped() -> None:
    async with session_at(Script()) as (gateway, client, session):
        async with client.connect(session) as stream:
            while stream.last_sequence < 3:
                await anext(stream)
            token, last = stream.resume_token, stream.last_sequence
        async with Client(gateway.address) as other:
            async with other.connect(resume_token=token, after_sequence=last) as stream:
                assert sequences(await everything(stream)) == list(range(4, NUM_BLOCKS + 1))


async def test_what_another_process_stored_is_acknowledged() -> None:
    """It died before it could say so, and nothing more came: the credit was used up."""
    async with session_at(Script()) as (gateway, client, session):
        async with client.connect(session, max_unacked_segments=3, auto_ack=False) as stream:
            while stream.last_sequence < 3:
                await anext(stream)
            token, last = stream.resume_token, stream.last_sequence
        async with Client(gateway.address) as other:
            options = {"resume_token": token, "after_sequence": last, "max_unacked_segments": 3}
            async with other.connect(**options) as stream:  # type: ignore[arg-type]
                assert sequences(await everything(stream)) == list(range(4, NUM_BLOCKS + 1))


async def test_how_a_session_failed_is_told() -> None:
    why = failure(Code.INVALID_ARGUMENT, "INVALID_PROMPT", "the prompt has 900 tokens")
    end = session_pb2.SessionEnd(reason=session_pb2.END_REASON_FAILED, status=why)
    async with session_at(Script(end_with=end)) as (_, client, session):
        async with client.connect(session) as stream:
            last = (await everything(stream))[-1]
    assert isinstance(last, Ended)
    assert last.reason == "FAILED"
    assert last.error is not None
    assert last.error.reason == "INVALID_PROMPT"


async def test_leaving_and_cancelling_leave_nothing_behind() -> None:
    async with session_at(Script(), None) as (gateway, client, session):
        fake = gateway.sessions[session.name]
        async with client.connect(session) as stream:
            await anext(stream)

        async def watch() -> None:
            async with client.connect(session) as stream:
                await everything(stream)

        for pause_s in (0, 0.001, 0.05):
            watching = asyncio.create_task(watch())
            await asyncio.sleep(pause_s)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await until(lambda: not fake.outboxes)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "stream"]
