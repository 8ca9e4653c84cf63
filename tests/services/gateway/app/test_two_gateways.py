"""Two gateways that share a Redis: any of them answers for every session, and each goes on for the other."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import pytest

from cascade.v1 import session_pb2 as pb
from cascade.v1.common_pb2 import StartFile
from services.gateway.api import creation
from services.gateway.app import session_servicer as servicer
from services.gateway.journal import RedisStore
from services.gateway.journal.errors import StoreUnavailable
from services.gateway.journal.owned import Owned
from tests.services.support.fake_machine import prompt_mark
from tests.services.support.fake_stage import CAUSAL
from tests.services.support.gateway_support import (
    CONTROLLER,
    PROMPT,
    STATES,
    VIEWER,
    WAIT_S,
    AttachedStream,
    fails,
    fresh_id,
    reason_of,
    status_reason,
    until,
    until_value,
)
from tests.services.support.redis_support import RedisServer, needs_redis
from tests.services.support.two_gateways import LEASE_S, check_whole, pair

pytestmark = needs_redis


async def test_a_session_that_is_created_while_its_gateway_leaves_is_the_others(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call was under way: whatever step it was at, somebody has the session at once."""
    async with pair(redis, lease_s=30.0) as both:
        journal = both.first.registry.shared.journal
        create, may_go_on, is_there = journal.create, asyncio.Event(), asyncio.Event()

        async def slowly(*arguments: Any) -> Any:
            creation = await create(*arguments)
            is_there.set()
            await may_go_on.wait()
            return creation

        monkeypatch.setattr(journal, "create", slowly)
        creating = asyncio.create_task(both.first.acme.name(num_blocks=20))
        await is_there.wait()
        await both.first.registry.drain(5.0)
        may_go_on.set()
        name = await creating
        await both.first.kill()
        async with asyncio.timeout(WAIT_S), both.second.acme.attached(name) as stream:
            await stream.until_over()
        check_whole(20, stream)


@pytest.mark.parametrize("sequence", [0, 1])
async def test_a_session_that_began_from_a_clip_goes_on_at_the_other_gateway(
    redis: RedisServer, sequence: int
) -> None:
    """Whether the first segment had come or not; nobody has the file any more."""
    async with pair(redis) as both:
        if not sequence:
            both.stage.set_capacity(0)
        name = await both.first.acme.name(num_blocks=8, start=StartFile(video=b"a clip"))
        if sequence:
            async with both.first.acme.attached(name, acks=False) as stream:
                await stream.until_sequence(sequence)
        await both.first.kill()
        both.stage.set_capacity(4)
        async with asyncio.timeout(WAIT_S):
            stream = await both.second.acme.attach_again(name=name, after_sequence=sequence)
            await stream.until_over()
        assert stream.sequences == list(range(sequence + 1, 9))
        assert [mark.block for mark in stream.marks] == list(range(sequence + 3, 11))
        last = both.stage.streams[-1]
        given = [mark for mark in last.context if mark.block < 3]
        assert given
        assert {mark.prompt for mark in given} == {prompt_mark("video")}
        assert len(both.decoders[0].encoded) == 1
        await stream.cut()


@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_video_that_is_made_needs_no_machine_at_the_other_gateway(
    redis: RedisServer, is_paused: bool
) -> None:
    """Its owner and its stage are gone, and only the last acknowledgement is missing."""
    async with pair(redis) as both:
        name = await both.first.acme.name(num_blocks=8)
        async with both.first.acme.attached(name, acks=False) as stream:
            await stream.until_sequence(4)
            await stream.ack(4)
            await stream.until_sequence(8)
            if is_paused:
                await both.first.acme.call("PauseSession", pb.PauseSessionRequest(name=name, request_id="p"))
            await until(lambda: not both.first.registry.shared.journal.behind().num_writes)
            await both.first.kill()
        await both.stage.kill()
        async with both.second.acme.attached(name, after_sequence=8, acks=False) as stream:
            state = STATES[(await both.second.acme.get(name)).state]
            assert state == ("PAUSED" if is_paused else "ACTIVE")
            await stream.ack(8)
            await stream.until_over()
        assert stream.end_reason == "COMPLETE"


async def test_a_takeover_that_meets_the_end_of_its_gateway_is_given_back(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a creation that does."""
    async with pair(redis) as both:
        name = await both.first.acme.name(num_blocks=20)
        await both.first.kill()
        journal = both.second.registry.shared.journal
        load, may_go_on, is_there = journal.load, asyncio.Event(), asyncio.Event()

        async def slowly(session: str) -> Any:
            record = await load(session)
            is_there.set()
            await may_go_on.wait()
            return record

        monkeypatch.setattr(journal, "load", slowly)
        await is_there.wait()
        await both.second.registry.drain(5.0)
        may_go_on.set()
        session = name.removeprefix("sessions/")

        async with asyncio.timeout(WAIT_S):
            while (await journal.summary(session)).lease_left_s:  # noqa: ASYNC110 (Redis tells nobody)
                await asyncio.sleep(0.01)
        assert both.second.registry.find(session) is None


async def test_a_drained_gateway_gives_its_sessions_to_the_other(redis: RedisServer) -> None:
    async with pair(redis) as both:
        name = await both.first.acme.name(num_blocks=60, stagger=1, inflight_attention=CAUSAL)
        async with both.first.acme.attached(name) as stream:
            await stream.until_sequence(5)
            async with asyncio.timeout(10):
                await both.first.registry.drain(5.0)
            await stream.until_over()
            assert stream.kinds[-1] == "reconnect"
            assert reason_of(stream.error) == "UNAVAILABLE DRAINING"  # type: ignore[arg-type]
        assert not both.first.registry.sessions
        newest = stream.sequences[-1]
        token = stream.all("attached")[0].resume_token
        later = both.second.acme.stream(with_credential=False)
        await later.attach(resume_token=token, after_sequence=newest)
        await later.ack(newest)
        await later.until_over()
        check_whole(60, stream, later)
        assert both.second.num_recovered("MIGRATION") == 1
        assert {segment.epoch for segment in later.segments} >= {2}
        asked = {(each.opening.stagger, each.opening.inflight_attention) for each in both.stage.streams}
        assert asked == {(1, CAUSAL)}, "at both gateways"


async def test_a_gateway_that_drains_sends_the_clients_of_other_gateways_elsewhere(
    redis: RedisServer,
) -> None:
    """Those whose streams it only forwards; until they have moved, the streams go on."""
    async with pair(redis) as both:
        name = await both.first.acme.name()
        async with both.second.acme.attached(name) as stream:
            await stream.until_sequence(3)
            await both.second.server.service.drain(5.0)
            await stream.first("reconnect")
            await stream.until_sequence(stream.sequences[-1] + 3)
            later = both.first.acme.stream()
            await later.attach(name=name, after_sequence=stream.sequences[-1])
            await stream.until_over()
            assert reason_of(stream.error) == "ABORTED CONTROLLER_REPLACED"  # type: ignore[arg-type]
            assert len(stream.all("reconnect")) == 1
            await later.until_sequence(stream.sequences[-1] + 3)
            await both.first.acme.delete(name)
            await later.until_over()
        assert not later.all("recovery_done"), "the session itself stayed where it was"


async def test_clients_that_come_back_at_once_find_one_session(redis: RedisServer) -> None:
    async with pair(redis) as both:
        name = await both.first.acme.name()
        await both.first.acme.until_state(name, "ACTIVE")
        await both.first.kill()
        async with AsyncExitStack() as stack:
            streams = [
                stack.enter_async_context(both.second.acme.attached(name, role=role))
                for role in (CONTROLLER, VIEWER, VIEWER, VIEWER)
            ]
            watching = await asyncio.gather(*streams)
            for stream in watching:
                await stream.until_sequence(10)
                assert stream.error is None
        assert len(both.second.registry.sessions) == 1
        assert (await both.second.acme.get(name)).epoch == 2


async def test_every_call_is_answered_by_the_gateway_that_has_not_the_session(redis: RedisServer) -> None:
    async with pair(redis) as both:
        near, far = both.first.acme, both.second.acme
        name = await near.name(labels={"a": "b"})
        await near.until_state(name, "ACTIVE")
        assert (await far.get(name)).epoch == 1
        assert [
            session.name for session in (await far.call("ListSessions", pb.ListSessionsRequest())).sessions
        ]
        assert (await far.pause(name)).paused
        assert (await near.until_state(name, "PAUSED")).paused
        assert not (await far.resume(name)).paused
        assert (await far.switch(name, "a blue square", "s1")).request_id == "s1"
        assert (await near.switch(name, "a blue square", "s1")).request_id == "s1"
        with fails("FAILED_PRECONDITION BLOCK_NOT_AHEAD", next_block=str((await near.get(name)).num_blocks)):
            await far.switch(name, "late", at_block=0)
        async with far.attached(resume_token=await far.token(name), acks=False) as viewer:
            assert viewer.all("attached")[0].role == VIEWER
        deleted = await far.delete(name, "d1")
        assert STATES[deleted.state] == "ENDED"
        assert (await far.delete(name, "d1")).end == (await near.get(name)).end
        assert not both.second.registry.sessions


async def test_a_stream_goes_through_the_other_gateway(redis: RedisServer) -> None:
    async with pair(redis) as both:
        far = both.second.acme
        name = await both.first.acme.name(num_blocks=40)
        async with far.attached(name, acks=False) as stream, far.attached(name, role=VIEWER) as viewer:
            await stream.until_sequence(4)
            await stream.send(switch_prompt={"request_id": "s0", "prompt_switch": {"text": " "}})
            failed = await stream.first("request_failed")
            assert (failed.request_id, status_reason(failed.status)) == ("s0", "INVALID_FIELD")
            await stream.send(switch_prompt={"request_id": "s1", "prompt_switch": {"text": "a blue square"}})
            await stream.receipt("s1", "ACCEPTED")
            stream.acks = True
            await stream.ack(4)
            await stream.until_over()
            await viewer.until_over()
        check_whole(40, stream)
        assert await stream.receipt("s1")
        (listed,) = (await far.call("ListSessions", pb.ListSessionsRequest())).sessions
        assert listed.prompt == "a blue square"
        assert viewer.end_reason == "COMPLETE"
        assert not both.second.registry.sessions


async def test_what_ends_a_stream_does_so_through_the_other_gateway(redis: RedisServer) -> None:
    async with pair(redis) as both:
        near, far = both.first.acme, both.second.acme
        name = await near.name()
        with fails("OUT_OF_RANGE SEQUENCE_AHEAD"):
            async with far.attached(name, after_sequence=10_000):
                pass
        async with far.attached(name, acks=False) as stream:
            await stream.until_segments(1)
            await stream.ack(0)
            await stream.until_over()
            assert reason_of(stream.error) == "INVALID_ARGUMENT INVALID_FIELD"  # type: ignore[arg-type]
        async with far.attached(name, acks=False) as stream, near.attached(name):
            await stream.until_over()
            assert reason_of(stream.error) == "ABORTED CONTROLLER_REPLACED"  # type: ignore[arg-type]
        await until(lambda: not both.first.registry.sessions[0].controller)


async def test_a_controller_that_writes_hears_through_the_other_gateway_that_it_was_replaced(
    redis: RedisServer,
) -> None:
    """Else both would attach again and again, and take the session from each other."""
    heard = []
    async with pair(redis) as both:
        near, far = both.first.acme, both.second.acme
        name = await near.name()
        for number in range(20):
            async with far.attached(name, acks=False) as stream:
                await stream.until_segments(1)
                writing = asyncio.create_task(acknowledge(stream))
                async with (near, far)[number % 2].attached(name, acks=False):
                    await stream.until_over()
                await writing
            heard.append(reason_of(stream.error))  # type: ignore[arg-type]
    assert heard == ["ABORTED CONTROLLER_REPLACED"] * len(heard)


async def acknowledge(stream: AttachedStream) -> None:
    """The same segment again and again, until the stream is over."""
    with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        while True:
            await stream.ack(stream.sequences[-1])


async def test_another_tenants_session_id_is_taken_at_any_gateway(redis: RedisServer) -> None:
    """The same request, to the letter, does not open its session either; with another id it is good."""
    async with pair(redis) as both:
        theirs = await both.first.acme.create("r1", session_id="mine")
        for gateway in (both.first, both.second):
            with fails("ALREADY_EXISTS SESSION_EXISTS"):
                await gateway.other.create("r1", session_id="mine")
        assert (await both.second.other.create("r1", session_id="other")).session.name == "sessions/other"
        await both.first.acme.delete("sessions/mine")
        with fails("ALREADY_EXISTS SESSION_EXISTS"):
            await both.second.other.create("r2", session_id="mine")
        assert theirs.session.name == "sessions/mine"


async def test_a_stream_that_finds_the_owner_dead_goes_on_after_its_lease(redis: RedisServer) -> None:
    async with pair(redis) as both:
        name = await both.first.acme.name(num_blocks=60)
        async with both.first.acme.attached(name) as stream:
            await stream.until_sequence(5)
            await both.first.kill()
            await stream.until_over()
        newest = stream.sequences[-1]
        async with both.second.acme.attached(name, after_sequence=newest) as later:
            await later.ack(newest)
            await later.until_over()
        check_whole(60, stream, later)
        assert both.second.num_recovered("GATEWAY_LOST") == 1
        assert (await both.second.acme.get(name)).end.reason == pb.END_REASON_COMPLETE


async def test_calls_that_find_the_owner_dead_are_answered_after_its_lease(redis: RedisServer) -> None:
    async with pair(redis) as both:
        name = await both.first.acme.name()
        await both.first.acme.until_state(name, "ACTIVE")
        await both.first.kill()
        session, receipt = await asyncio.gather(
            both.second.acme.pause(name, "p1"), both.second.acme.switch(name, "a blue square", "s1")
        )
        assert session.paused
        assert receipt.request_id == "s1"


async def test_an_owner_that_nobody_reaches_is_waited_for_so_long(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "CHANGING_S", 0.2)
    async with pair(redis) as both:
        shared = both.first.registry.shared
        request = pb.CreateSessionRequest(request_id=fresh_id(), spec={"prompts": {0: PROMPT}})
        new = creation.complete(request, "acme", shared)
        await shared.journal.create(new, "127.0.0.1:1/far", 60.0)
        with fails("UNAVAILABLE NOT_READY"):
            await both.second.acme.get(f"sessions/{new.session}")
        with fails("UNAVAILABLE NOT_READY"):
            async with both.second.acme.attached(f"sessions/{new.session}"):
                pass


async def test_sessions_of_another_tenant_do_not_exist_at_the_other_gateway_either(
    redis: RedisServer,
) -> None:
    async with pair(redis) as both:
        stranger = both.second.other
        name = await both.first.acme.name()
        await both.first.acme.until_state(name, "ACTIVE")
        for call in (stranger.get, stranger.delete, stranger.pause, stranger.resume, stranger.token):
            with fails("NOT_FOUND SESSION_NOT_FOUND"):
                await call(name)
        with fails("NOT_FOUND SESSION_NOT_FOUND"):
            await stranger.switch(name, "mine now")
        with fails("NOT_FOUND SESSION_NOT_FOUND"):
            async with stranger.attached(name):
                pass
        assert not (await stranger.call("ListSessions", pb.ListSessionsRequest())).sessions
        assert STATES[(await both.first.acme.get(name)).state] == "ACTIVE"


@pytest.mark.parametrize("attaches", [False, True])
async def test_a_pause_of_redis_moves_no_session(
    redis: RedisServer, attaches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other gateway has none, and is the first to find Redis back; clients may ask it for them."""
    renew_first = Owned.renew_first

    async def late(owned: Owned, store: RedisStore) -> None:
        await asyncio.sleep(0.2)
        await renew_first(owned, store)

    monkeypatch.setattr(Owned, "renew_first", late)
    async with pair(redis) as both:
        names = [await both.first.acme.name() for _ in range(4)]
        for name in names:
            await both.first.acme.until_state(name, "ACTIVE")
        redis.freeze()
        await asyncio.sleep(3 * LEASE_S)
        redis.thaw()
        if attaches:
            for name in names:
                async with both.second.acme.attached(name) as stream:
                    await stream.until_segments(2)
        await asyncio.sleep(3 * LEASE_S)
        assert not both.second.registry.sessions
        assert [(await both.second.acme.get(name)).epoch for name in names] == [1] * 4


@pytest.mark.parametrize("num_blocks", [40, 24])
@pytest.mark.parametrize("max_unacked", [1, 8])
async def test_a_client_may_be_ahead_of_what_redis_has_when_its_gateway_dies(
    redis: RedisServer, max_unacked: int, num_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments reach it before Redis, which had refused them for long; they are made again, and it waits."""

    async def refuse(*_: Any) -> None:
        raise StoreUnavailable("the password has changed")

    async with pair(redis) as both:
        name = await both.first.acme.name(num_blocks=num_blocks)
        async with both.first.acme.attached(name, max_unacked_segments=max_unacked) as stream:
            async with both.second.acme.attached(name, role=VIEWER) as viewer:
                await stream.until_sequence(8)
                monkeypatch.setattr(both.first.registry.shared.journal, "_push", refuse)
                await stream.until_sequence(24)
                await viewer.until_sequence(24)
                await both.first.kill()
            await stream.until_over()
        newest = stream.sequences[-1]
        client = both.second.acme
        later = await client.attach_again(name=name, after_sequence=newest, max_unacked_segments=max_unacked)
        watching = await client.attach_again(name=name, after_sequence=viewer.sequences[-1], role=VIEWER)
        assert both.second.registry.sessions[0].record.next_decoder_block < newest, "nothing was lost"
        await later.ack(newest)
        await later.until_over()
        check_whole(num_blocks, stream, later)
        await watching.until_over()
        seen = viewer.sequences + watching.sequences
        assert seen == list(range(seen[0], num_blocks + 1))
        assert later.end_reason == watching.end_reason == "COMPLETE"
        with fails("OUT_OF_RANGE SEQUENCE_AHEAD"):
            async with both.second.acme.attached(name, after_sequence=10_000):
                pass


@pytest.mark.parametrize("leaves", [False, True])
async def test_running_sessions_come_before_those_that_queue_at_the_other_gateway(
    redis: RedisServer, leaves: bool
) -> None:
    """Their gateway is lost, or leaves, and their places are free before anybody has taken them over."""
    async with pair(redis, num_places=2, recovery_timeout_s=5.0) as both:
        names = [await both.first.acme.name() for _ in range(2)]
        for name in names:
            await both.first.acme.until_state(name, "ACTIVE")
        waiting = [await both.second.acme.name() for _ in range(3)]
        for name in waiting:
            await both.second.acme.until_state(name, "QUEUED")
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(both.second.acme.attached(name, after_sequence=0))
                for name in names
            ]
            for stream in streams:
                await stream.until_segments(2)
            await (both.first.registry.drain(5.0) if leaves else both.first.kill())
            later = [both.second.acme.stream() for _ in names]
            for name, former, stream in zip(names, streams, later, strict=True):
                newest = former.sequences[-1]
                await stream.attach(name=name, after_sequence=newest)
                await stream.ack(newest)
            for stream in later:
                await stream.until_segments(10)
                assert "QUEUED" not in stream.states
        assert [STATES[(await both.second.acme.get(name)).state] for name in waiting] == ["QUEUED"] * 3
        await both.second.acme.delete(names[0])
        async with asyncio.timeout(LEASE_S):  # what is free for all is given out at once
            await both.second.acme.until_state(waiting[0], "ACTIVE")


async def test_a_place_that_a_session_leaves_is_for_who_queues_at_the_other_gateway(
    redis: RedisServer,
) -> None:
    async with pair(redis, num_places=1) as both:
        for _ in range(3):
            name = await both.first.acme.name()
            await both.first.acme.until_state(name, "ACTIVE")
            waiting = await both.second.acme.name()
            await both.second.acme.until_state(waiting, "QUEUED")
            await both.first.acme.delete(name)
            async with asyncio.timeout(5.0):
                await both.second.acme.until_state(waiting, "ACTIVE")
            await both.second.acme.delete(waiting)


async def test_of_two_at_two_gateways_that_hold_what_the_other_needs_one_goes_on(redis: RedisServer) -> None:
    async with pair(redis, num_each=2, capacity=1, recovery_timeout_s=WAIT_S) as both:
        gateways = (both.first, both.second)
        names = [await gateway.acme.name(num_blocks=60) for gateway in gateways]
        streams = [gateway.acme.stream() for gateway in gateways]
        for name, stream in zip(names, streams, strict=True):
            await stream.attach(name=name)
            await stream.until_sequence(3)
        first, second = (name.removeprefix("sessions/") for name in names)
        stage = next(stage for stage in both.stages if first in stage.sessions)
        decoder = next(decoder for decoder in both.decoders if second in decoder.sessions)
        await asyncio.gather(stage.kill(), decoder.kill())
        async with asyncio.timeout(WAIT_S):
            ends = [asyncio.ensure_future(stream.until_over()) for stream in streams]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await stage.start()
            await asyncio.gather(*ends)
        for stream in streams:
            check_whole(60, stream)


async def test_no_places_are_kept_for_a_paused_session_that_is_taken_over(redis: RedisServer) -> None:
    """It gets others in its turn, once it resumes."""
    async with pair(redis) as both:
        name = await both.first.acme.name()
        await both.first.acme.until_state(name, "ACTIVE")
        await both.first.acme.pause(name)
        await both.first.acme.until_state(name, "PAUSED")
        journal = both.second.registry.shared.journal
        await until_value(lambda: journal.share_running([], []), len)
        await both.first.kill()
        await until(lambda: both.second.registry.sessions)
        await until_value(lambda: journal.share_running([], []), lambda found: not found)
        assert STATES[(await both.second.acme.get(name)).state] == "PAUSED"
