"""Connect, as `session.proto` tells it: who may attach, what comes in which order, how a stream goes on."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from cascade.v1 import session_pb2 as pb
from services.common import streams
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import REFUSED, FakeStage
from tests.services.support.gateway_support import (
    CONTROLLER,
    STATES,
    VIEWER,
    AttachedStream,
    fails,
    reason_of,
    status_reason,
    town,
    until,
    until_value,
)

VIOLATION = "FAILED_PRECONDITION PROTOCOL_VIOLATION"
NOT_FOUND = "NOT_FOUND SESSION_NOT_FOUND"
INVALID_SWITCHES: list[tuple[dict[str, Any], str]] = [
    ({"text": "  "}, ".text"),
    ({"text": "a bear", "mode": 99}, ".mode"),
    ({"text": "a bear", "transition": {"num_blocks": 65}}, ".transition.num_blocks"),
    ({"mix": {"prompts": [{"text": "a bear", "weight": -1.0}]}}, ".mix.prompts[0].weight"),
    ({"text": "a bear", "at_block": 2**40}, ".at_block"),
    ({"text": "a bear", "loras": {"loras": [{"name": "ink", "scale": 1e9}]}}, ".loras.loras[0].scale"),
]


async def refused(stream: AttachedStream, **attach: Any) -> None:
    try:
        await stream.attach(**attach)
    finally:
        await stream.cut()


async def end_of(stream: AttachedStream) -> str:
    await stream.until_over()
    assert stream.error is not None
    return reason_of(stream.error)


async def test_a_credential_attaches_by_name_and_a_token_without_one() -> None:
    async with town(tenants=["acme"]) as place:
        created = await place.anybody.create()
        name, token = created.session.name, created.resume_token
        async with place.anybody.attached(name) as stream:
            assert stream.all("attached")[0].role == CONTROLLER
            assert stream.all("attached")[0].session.name == name
        stream = place.anybody.stream(acks=True, with_credential=False)
        await stream.attach(resume_token=token)
        await stream.until_segments(1)
        renewed = stream.all("attached")[0].resume_token
        await stream.cut()
        stream = place.anybody.stream(acks=True, with_credential=False)
        await stream.attach(resume_token=renewed, name=name, role=VIEWER)
        assert stream.all("attached")[0].role == VIEWER
        await stream.cut()
        with fails("UNAUTHENTICATED UNAUTHENTICATED"):
            await refused(place.anybody.stream(with_credential=False), name=name)


async def test_tokens_that_are_not_good_are_refused() -> None:
    async with town(tenants=["acme", "rival"]) as place:
        acme = place.anybody
        created, other = await acme.create(), await acme.create()
        name, token = created.session.name, created.resume_token
        viewer = await acme.token(name)
        head, payload, signature = token.split(".")
        tampered = f"{head}.{payload[:-4]}{'AAAA' if payload[-4:] != 'AAAA' else 'BBBB'}.{signature}"
        for bad in (tampered, token + "x", "nonsense", token[:-3], f"{head}.{payload}."):
            with fails("UNAUTHENTICATED UNAUTHENTICATED"):
                await refused(acme.stream(with_credential=False), resume_token=bad)
            with fails("UNAUTHENTICATED UNAUTHENTICATED"):
                await refused(acme.stream(), resume_token=bad, name=name)
        with fails("PERMISSION_DENIED PERMISSION_DENIED"):
            await refused(acme.stream(), resume_token=token, name=other.session.name)
        with fails("PERMISSION_DENIED PERMISSION_DENIED"):
            await refused(acme.stream(with_credential=False), resume_token=viewer, role=CONTROLLER)
        async with acme.attached(resume_token=viewer) as stream:
            assert stream.all("attached")[0].role == VIEWER


async def test_a_token_expires_when_it_is_told() -> None:
    async with town(tenants=["acme"]) as place:
        name = await place.anybody.name()
        request = pb.IssueResumeTokenRequest(name=name, role=VIEWER, ttl={"seconds": 100})
        answer = await place.anybody.call("IssueResumeToken", request)
        expires_s = place.registry.shared.tokens.read(answer.resume_token).expires_s
        assert answer.expire_time.ToMilliseconds() == int(expires_s * 1000)
        assert 90 < expires_s - time.time() <= 100


async def test_an_expired_token_is_refused_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    async with town(tenants=["acme"]) as place:
        name = await place.anybody.name()
        token = await place.anybody.token(name, ttl_s=10)
        monkeypatch.setattr(place.registry.shared.tokens, "_clock", lambda: time.time() + 11)
        with fails("UNAUTHENTICATED EXPIRED_CREDENTIAL"):
            await refused(place.anybody.stream(with_credential=False), resume_token=token)


async def test_a_token_is_renewed_while_the_stream_lasts() -> None:
    async with town(token_ttl_s=0.4) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            renewed = await stream.first("token_renewed")
            assert renewed.resume_token != stream.all("attached")[0].resume_token
            async with place.anybody.attached(resume_token=renewed.resume_token, role=VIEWER) as viewer:
                assert viewer.all("attached")


async def test_sessions_of_another_tenant_do_not_exist() -> None:
    async with town(tenants=["acme", "rival"]) as place:
        acme, rival = place.tenants["acme"], place.tenants["rival"]
        await acme.create(session_id="theirs")

        async def told(call: Awaitable[Any]) -> str:
            with fails(NOT_FOUND) as details:
                await call
            del details
            return "told"

        for name in ("sessions/theirs", "sessions/nobodys"):
            calls = [rival.get(name), rival.delete(name), rival.pause(name), rival.resume(name)]
            for call in (
                *calls,
                rival.switch(name, "x"),
                rival.token(name),
                refused(rival.stream(), name=name),
            ):
                assert await told(call) == "told"
        assert not (await rival.call("ListSessions", pb.ListSessionsRequest())).sessions
        assert STATES[(await acme.get("sessions/theirs")).state] != "ENDED"
        texts = []
        for name in ("sessions/theirs", "sessions/nobodys"):
            try:
                await rival.get(name)
            except Exception as error:
                texts.append(error.details().replace(name.removeprefix("sessions/"), "ID"))  # type: ignore[attr-defined]
        assert len(texts) == 2
        assert texts[0] == texts[1]


async def test_the_first_message_must_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MESSAGE_DEADLINE_S", 0.2)
    async with town() as place:
        stream = place.anybody.stream()
        stream.start()
        assert await end_of(stream) == "DEADLINE_EXCEEDED FIRST_MESSAGE_LATE"


async def test_messages_out_of_order_end_the_stream_not_the_session() -> None:
    async with town() as place:
        name = await place.anybody.name()
        for wrong in ({"ack": {"sequence": 1}}, {"end": {"request_id": "e"}}):
            stream = place.anybody.stream()
            await stream.send(**wrong)
            stream.start()
            assert await end_of(stream) == VIOLATION
        stream = place.anybody.stream()
        await stream.call.done_writing()
        stream.start()
        assert await end_of(stream) == VIOLATION
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.send(attach={"name": name})
            assert await end_of(stream) == VIOLATION
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.ack(99)
            assert await end_of(stream) == VIOLATION
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(6)


async def test_an_ack_covers_what_another_stream_brought() -> None:
    """A client that attaches anew beside its old stream may have played what the new one has yet to send."""
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_segments(4)
            await stream.ack(4)
            await stream.ack(2)
            await stream.until_segments(8)
        async with place.anybody.attached(name, acks=False, after_sequence=8) as stream:
            await stream.ack(8)
            await stream.until_sequence(9)
        stream = place.anybody.stream(acks=False)
        await stream.send(attach={"name": name})
        await stream.ack(9)
        stream.start()
        await stream.until_sequence(10)
        assert stream.sequences[0] == 1
        await stream.cut()


async def test_resuming_ahead_of_what_was_sent_is_refused() -> None:
    async with town() as place:
        name = await place.anybody.name()
        for role in (CONTROLLER, VIEWER):
            with fails("OUT_OF_RANGE SEQUENCE_AHEAD"):
                await refused(place.anybody.stream(), name=name, after_sequence=1000, role=role)


async def test_an_unknown_profile_is_refused_and_a_known_one_given() -> None:
    async with town() as place:
        name = await place.anybody.name(profiles=[{"id": "high"}, {"id": "low"}], num_blocks=3)
        async with (
            place.anybody.attached(name, profile_id="low") as stream,
            place.anybody.attached(name, role=VIEWER) as viewer,
        ):
            await stream.until_over()
            await viewer.until_over()
        assert {item.media.profile_id for item in stream.segments} == {"low"}
        assert {item.media.profile_id for item in viewer.segments} == {"high"}
        assert [init.profile_id for init in stream.all("media_init")] == ["low"]
        assert [init.profile_id for init in viewer.all("media_init")] == ["high"]
        with pytest.raises(Exception, match="profile_id"):
            await refused(place.anybody.stream(), name=name, profile_id="other")


async def test_a_newer_controller_replaces_the_older() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as old:
            await old.until_segments(2)
            async with place.anybody.attached(name, after_sequence=old.sequences[-1]) as new:
                assert await end_of(old) == "ABORTED CONTROLLER_REPLACED"
                await new.until_segments(3)
                assert (await place.anybody.get(name)).has_controller
        await until_value(lambda: place.anybody.get(name), lambda session: not session.has_controller)


async def test_a_viewer_cannot_steer_but_may_ack() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with (
            place.anybody.attached(name) as stream,
            place.anybody.attached(name, role=VIEWER) as viewer,
        ):
            await viewer.until_segments(2)
            await viewer.send(set_paused={"request_id": "v1", "paused": True})
            await viewer.send(switch_prompt={"request_id": "v2", "prompt_switch": {"text": "x"}})
            await viewer.send(end={"request_id": "v3"})
            await viewer.until(lambda: len(viewer.all("request_failed")) == 3)
            failed = viewer.all("request_failed")
            assert [item.request_id for item in failed] == ["v1", "v2", "v3"]
            assert {status_reason(item.status) for item in failed} == {"NOT_CONTROLLER"}
            await viewer.until_segments(len(viewer.segments) + 3)
            assert not stream.is_over


async def test_a_viewers_ack_gives_no_credit() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with (
            place.anybody.attached(name, acks=False) as stream,
            place.anybody.attached(name, role=VIEWER) as viewer,
        ):
            await stream.until_segments(4)
            await viewer.until_sequence(4)
            await asyncio.sleep(0.2)
            assert stream.sequences == [1, 2, 3, 4]
            assert (await place.anybody.get(name)).acked_sequence == 0


async def test_commands_over_the_stream_are_the_unary_ones() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with (
            place.anybody.attached(name) as stream,
            place.anybody.attached(name, role=VIEWER) as viewer,
        ):
            await stream.until_segments(1)
            await stream.send(switch_prompt={"request_id": "s1", "prompt_switch": {"text": "a square"}})
            assert (await stream.receipt("s1", "ACCEPTED")).HasField("accept_time")
            applied = await stream.receipt("s1")
            assert await viewer.receipt("s1") == applied
            assert await place.anybody.switch(name, "a square", "s1") == applied
            at = stream.position("prompt_receipt", lambda item: item.state == pb.SWITCH_STATE_APPLIED)
            block = applied.first_block_touched
            await stream.until_sequence(block + 1)
            assert at < stream.position("segment", lambda item: item.media.block == block)
            await stream.send(switch_prompt={"request_id": "s1", "prompt_switch": {"text": "other"}})
            await stream.send(
                switch_prompt={"request_id": "s2", "prompt_switch": {"text": "x", "at_block": 0}}
            )
            await stream.until(lambda: len(stream.all("request_failed")) == 2)
            reasons = [status_reason(item.status) for item in stream.all("request_failed")]
            assert reasons == ["REQUEST_ID_REUSED", "BLOCK_NOT_AHEAD"]
            await stream.send(switch_prompt={"request_id": "s3", "prompt_switch": {"text": REFUSED}})
            assert status_reason((await stream.receipt("s3", "REFUSED")).status) == "INVALID_PROMPT"
            await stream.send(set_paused={"request_id": "p1", "paused": True})
            await stream.until(lambda: stream.states[-1] == "PAUSED")
            await stream.send(set_paused={"request_id": "p2", "paused": False})
            await stream.until(lambda: stream.states[-1] == "ACTIVE")
            await stream.send(set_paused={"request_id": "p1", "paused": True})
            await stream.until_segments(len(stream.segments) + 3)
            await stream.send(end={"request_id": "e1"})
            await stream.until_over()
            await viewer.until_over()
        assert stream.end_reason == viewer.end_reason == "DELETED"
        assert stream.error is None


async def test_a_command_that_is_not_valid_fails_and_the_stream_goes_on() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            for number, (wrong, field) in enumerate(INVALID_SWITCHES):
                await stream.send(switch_prompt={"request_id": f"s{number}", "prompt_switch": wrong})
                await stream.until(lambda count=number: len(stream.all("request_failed")) > count)
                failed = stream.all("request_failed")[number]
                assert failed.request_id == f"s{number}"
                assert status_reason(failed.status) == "INVALID_FIELD"
                assert f"switch_prompt.prompt_switch{field}" in failed.status.message
            await stream.send(switch_prompt={"request_id": "good", "prompt_switch": {"text": "a bear"}})
            await stream.receipt("good", "APPLIED")
            await stream.send(set_paused={"request_id": "", "paused": True})
            assert await end_of(stream) == "INVALID_ARGUMENT INVALID_FIELD", "there is no id to answer to"


@pytest.mark.parametrize("message", [{"ack": {"sequence": 0}}, {}])
async def test_other_messages_that_are_not_valid_end_the_stream(message: dict[str, Any]) -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.send(**message)
            assert await end_of(stream) == "INVALID_ARGUMENT INVALID_FIELD"


async def test_acks_are_the_credit() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False, max_unacked_segments=2) as stream:
            assert stream.all("attached")[0].max_unacked_segments == 2
            await stream.until_sequence(2)
            for acked in range(2, 12):
                await stream.ack(acked)
                await stream.until_sequence(acked + 2)
                await asyncio.sleep(0.03)
                assert stream.sequences[-1] <= max(4, acked + 2), "4: made before it attached"
                assert max(place.stage.streams[0].sent) < max(4, acked + 2)
        async with place.anybody.attached(name, acks=False, max_unacked_segments=64) as stream:
            assert stream.all("attached")[0].max_unacked_segments == 32
            await asyncio.sleep(0.1)
            await stream.until_sequence(11 + 32)
            await asyncio.sleep(0.1)
            assert stream.sequences[-1] == 43


async def test_the_init_comes_before_the_first_segment_and_receipts_are_told_again_at_attach() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(1)
            assert stream.kinds.index("media_init") < stream.kinds.index("segment")
            await place.anybody.switch(name, "one", "s1")
            await stream.receipt("s1")
            await place.anybody.switch(name, "two", "s2", at_block=1000)
        async with place.anybody.attached(name, acks=False, after_sequence=1) as stream:
            receipts = {item.request_id: item.state for item in stream.all("attached")[0].receipts}
            assert receipts == {"s1": pb.SWITCH_STATE_APPLIED, "s2": pb.SWITCH_STATE_ACCEPTED}
            await stream.until_segments(1)
            assert stream.kinds[:2] == ["attached", "media_init"]


async def test_a_viewer_starts_at_the_live_edge_and_skips_to_it_when_slow() -> None:
    decoder = FakeDecoder(segment_bytes=200_000)
    async with town(decoders=[decoder]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_sequence(20)
            slow = place.anybody.stream()
            await slow.send(attach={"name": name, "role": VIEWER})
            await stream.until_sequence(150)
            assert stream.sequences == list(range(1, len(stream.sequences) + 1))
            slow.start()
            await slow.first("skipped")
            at = slow.all("skipped")[0].next_sequence
            await slow.until_sequence(at + 3)
            start = slow.all("attached")[0].next_sequence
            assert start >= 20
            check_viewer(slow, start)
            await slow.cut()


def check_viewer(stream: AttachedStream, start: int) -> None:
    """Sequences ascend by 1, or `skipped` tells exactly which were left out."""
    expected = start
    for event in stream.events:
        if event.HasField("skipped"):
            assert event.skipped.first_sequence == expected
            expected = event.skipped.next_sequence
        elif event.HasField("segment"):
            assert event.segment.sequence == expected
            expected += 1


async def test_a_viewer_that_resumes_too_late_is_told_what_it_missed() -> None:
    async with town(kept_segments=32) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_sequence(60)
            async with place.anybody.attached(name, role=VIEWER, after_sequence=3) as viewer:
                await viewer.until_segments(2)
                skipped = viewer.all("skipped")[0]
                assert skipped.first_sequence == 4
                assert skipped.next_sequence == viewer.all("attached")[0].next_sequence
                assert viewer.sequences[0] == skipped.next_sequence


async def test_there_is_room_for_so_many_viewers() -> None:
    async with town(max_viewers=2) as place:
        name = await place.anybody.name()
        async with (
            place.anybody.attached(name, role=VIEWER),
            place.anybody.attached(name, role=VIEWER) as second,
        ):
            with fails("RESOURCE_EXHAUSTED OUT_OF_CAPACITY"):
                await refused(place.anybody.stream(), name=name, role=VIEWER)
            assert (await place.anybody.get(name)).num_viewers == 2
            await second.cut()
            await until_value(lambda: place.anybody.get(name), lambda session: session.num_viewers == 1)
            async with place.anybody.attached(name, role=VIEWER), place.anybody.attached(name):
                assert (await place.anybody.get(name)).num_viewers == 2


async def test_a_half_close_goes_on_receiving() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.call.done_writing()
            await stream.until_segments(4)
            await asyncio.sleep(0.1)
            assert not stream.is_over
            await place.anybody.delete(name)
            await stream.until_over()
            assert stream.end_reason == "DELETED"


async def test_an_ended_session_is_replayed_and_ends() -> None:
    async with town() as place:
        created = await place.anybody.create(num_blocks=6)
        name = created.session.name
        async with place.anybody.attached(name) as stream:
            await stream.until_over()
        for role, after in ((CONTROLLER, 0), (VIEWER, 2), (CONTROLLER, 6)):
            async with place.anybody.attached(name, role=role, after_sequence=after, acks=False) as again:
                await again.until_over()
            assert again.error is None
            assert again.kinds[0] == "attached"
            assert again.kinds[-1] == "ended"
            assert again.sequences == list(range(after + 1, 7))
            assert again.end_reason == "COMPLETE"
            assert again.all("attached")[0].role == role
        async with place.anybody.attached(resume_token=created.resume_token, acks=False) as again:
            await again.until_over()
            assert again.end_reason == "COMPLETE"
        with fails("OUT_OF_RANGE SEQUENCE_AHEAD"):
            await refused(place.anybody.stream(), name=name, after_sequence=7)


async def test_a_session_ends_complete_only_when_all_is_acked() -> None:
    async with town() as place:
        name = await place.anybody.name(num_blocks=3)
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_segments(3)
            await stream.ack(2)
            await asyncio.sleep(0.2)
            assert not stream.is_over
            await stream.ack(3)
            await stream.until_over()
            assert stream.end_reason == "COMPLETE"


async def test_a_stream_that_is_cut_leaves_nothing_behind() -> None:
    async with town(stages=[FakeStage()]) as place:
        name = await place.anybody.name()
        for _ in range(20):
            async with place.anybody.attached(name, acks=False):
                pass
        (live,) = place.registry.sessions
        await until(lambda: not live.controller and not live.num_viewers)
