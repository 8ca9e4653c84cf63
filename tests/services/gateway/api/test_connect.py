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
    Leg,
    fails,
    reason_of,
    status_reason,
    town,
    until,
    until_value,
)

VIOLATION = "FAILED_PRECONDITION PROTOCOL_VIOLATION"
NOT_FOUND = "NOT_FOUND SESSION_NOT_FOUND"


async def refused(leg: Leg, **attach: Any) -> None:
    try:
        await leg.attach(**attach)
    finally:
        await leg.cut()


async def end_of(leg: Leg) -> str:
    await leg.until_over()
    assert leg.error is not None
    return reason_of(leg.error)


async def test_a_credential_attaches_by_name_and_a_token_without_one() -> None:
    async with town(tenants=["acme"]) as place:
        created = await place.anybody.create()
        name, token = created.session.name, created.resume_token
        async with place.anybody.attached(name) as leg:
            assert leg.all("attached")[0].role == CONTROLLER
            assert leg.all("attached")[0].session.name == name
        leg = place.anybody.leg(acks=True, with_credential=False)
        await leg.attach(resume_token=token)
        await leg.until_segments(1)
        renewed = leg.all("attached")[0].resume_token
        await leg.cut()
        leg = place.anybody.leg(acks=True, with_credential=False)
        await leg.attach(resume_token=renewed, name=name, role=VIEWER)
        assert leg.all("attached")[0].role == VIEWER
        await leg.cut()
        with fails("UNAUTHENTICATED UNAUTHENTICATED"):
            await refused(place.anybody.leg(with_credential=False), name=name)


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
                await refused(acme.leg(with_credential=False), resume_token=bad)
            with fails("UNAUTHENTICATED UNAUTHENTICATED"):
                await refused(acme.leg(), resume_token=bad, name=name)
        with fails("PERMISSION_DENIED PERMISSION_DENIED"):
            await refused(acme.leg(), resume_token=token, name=other.session.name)
        with fails("PERMISSION_DENIED PERMISSION_DENIED"):
            await refused(acme.leg(with_credential=False), resume_token=viewer, role=CONTROLLER)
        async with acme.attached(resume_token=viewer) as leg:
            assert leg.all("attached")[0].role == VIEWER


async def test_an_expired_token_is_refused_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    async with town(tenants=["acme"]) as place:
        name = await place.anybody.name()
        token = await place.anybody.token(name, ttl_s=10)
        monkeypatch.setattr(place.registry.shared.tokens, "_clock", lambda: time.time() + 11)
        with fails("UNAUTHENTICATED EXPIRED_CREDENTIAL"):
            await refused(place.anybody.leg(with_credential=False), resume_token=token)


async def test_a_token_is_renewed_while_the_stream_lasts() -> None:
    async with town(token_ttl_s=0.4) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as leg:
            renewed = await leg.first("token_renewed")
            assert renewed.resume_token != leg.all("attached")[0].resume_token
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
            for call in (*calls, rival.switch(name, "x"), rival.token(name), refused(rival.leg(), name=name)):
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
        leg = place.anybody.leg()
        leg.start()
        assert await end_of(leg) == "DEADLINE_EXCEEDED FIRST_MESSAGE_LATE"


async def test_messages_out_of_order_end_the_stream_not_the_session() -> None:
    async with town() as place:
        name = await place.anybody.name()
        for wrong in ({"ack": {"sequence": 1}}, {"end": {"request_id": "e"}}):
            leg = place.anybody.leg()
            await leg.send(**wrong)
            leg.start()
            assert await end_of(leg) == VIOLATION
        leg = place.anybody.leg()
        await leg.call.done_writing()
        leg.start()
        assert await end_of(leg) == VIOLATION
        async with place.anybody.attached(name, acks=False) as leg:
            await leg.send(attach={"name": name})
            assert await end_of(leg) == VIOLATION
        async with place.anybody.attached(name, acks=False) as leg:
            await leg.ack(99)
            assert await end_of(leg) == VIOLATION
        async with place.anybody.attached(name) as leg:
            await leg.until_segments(6)


async def test_an_ack_covers_what_another_stream_brought() -> None:
    """A client that attaches anew beside its old stream may have played what the new one has yet to send."""
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False) as leg:
            await leg.until_segments(4)
            await leg.ack(4)
            await leg.ack(2)
            await leg.until_segments(8)
        async with place.anybody.attached(name, acks=False, after_sequence=8) as leg:
            await leg.ack(8)
            await leg.until_sequence(9)
        leg = place.anybody.leg(acks=False)
        await leg.send(attach={"name": name})
        await leg.ack(9)
        leg.start()
        await leg.until_sequence(10)
        assert leg.sequences[0] == 1
        await leg.cut()


async def test_resuming_ahead_of_what_was_sent_is_refused() -> None:
    async with town() as place:
        name = await place.anybody.name()
        for role in (CONTROLLER, VIEWER):
            with fails("OUT_OF_RANGE SEQUENCE_AHEAD"):
                await refused(place.anybody.leg(), name=name, after_sequence=1000, role=role)


async def test_an_unknown_profile_is_refused_and_a_known_one_given() -> None:
    async with town() as place:
        name = await place.anybody.name(profiles=[{"id": "high"}, {"id": "low"}], num_blocks=3)
        async with (
            place.anybody.attached(name, profile_id="low") as leg,
            place.anybody.attached(name, role=VIEWER) as viewer,
        ):
            await leg.until_over()
            await viewer.until_over()
        assert {item.media.profile_id for item in leg.segments} == {"low"}
        assert {item.media.profile_id for item in viewer.segments} == {"high"}
        assert [init.profile_id for init in leg.all("media_init")] == ["low"]
        assert [init.profile_id for init in viewer.all("media_init")] == ["high"]
        with pytest.raises(Exception, match="profile_id"):
            await refused(place.anybody.leg(), name=name, profile_id="other")


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
            place.anybody.attached(name) as leg,
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
            assert not leg.is_over


async def test_a_viewers_ack_gives_no_credit() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with (
            place.anybody.attached(name, acks=False) as leg,
            place.anybody.attached(name, role=VIEWER) as viewer,
        ):
            await leg.until_segments(4)
            await viewer.until_sequence(4)
            await asyncio.sleep(0.2)
            assert leg.sequences == [1, 2, 3, 4]
            assert (await place.anybody.get(name)).acked_sequence == 0


async def test_commands_over_the_stream_are_the_unary_ones() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as leg, place.anybody.attached(name, role=VIEWER) as viewer:
            await leg.until_segments(1)
            await leg.send(switch_prompt={"request_id": "s1", "prompt_switch": {"text": "a square"}})
            assert (await leg.receipt("s1", "ACCEPTED")).HasField("accept_time")
            applied = await leg.receipt("s1")
            assert await viewer.receipt("s1") == applied
            assert await place.anybody.switch(name, "a square", "s1") == applied
            at = leg.position("prompt_receipt", lambda item: item.state == pb.SWITCH_STATE_APPLIED)
            block = applied.first_block_touched
            await leg.until_sequence(block + 1)
            assert at < leg.position("segment", lambda item: item.media.block == block)
            await leg.send(switch_prompt={"request_id": "s1", "prompt_switch": {"text": "other"}})
            await leg.send(switch_prompt={"request_id": "s2", "prompt_switch": {"text": "x", "at_block": 0}})
            await leg.until(lambda: len(leg.all("request_failed")) == 2)
            reasons = [status_reason(item.status) for item in leg.all("request_failed")]
            assert reasons == ["REQUEST_ID_REUSED", "BLOCK_NOT_AHEAD"]
            await leg.send(switch_prompt={"request_id": "s3", "prompt_switch": {"text": REFUSED}})
            assert status_reason((await leg.receipt("s3", "REFUSED")).status) == "INVALID_PROMPT"
            await leg.send(set_paused={"request_id": "p1", "paused": True})
            await leg.until(lambda: leg.states[-1] == "PAUSED")
            await leg.send(set_paused={"request_id": "p2", "paused": False})
            await leg.until(lambda: leg.states[-1] == "ACTIVE")
            await leg.send(set_paused={"request_id": "p1", "paused": True})
            await leg.until_segments(len(leg.segments) + 3)
            await leg.send(end={"request_id": "e1"})
            await leg.until_over()
            await viewer.until_over()
        assert leg.end_reason == viewer.end_reason == "DELETED"
        assert leg.error is None


async def test_a_message_that_is_not_valid_ends_the_stream() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as leg:
            await leg.send(switch_prompt={"request_id": "s1", "prompt_switch": {"text": "  "}})
            assert await end_of(leg) == "INVALID_ARGUMENT INVALID_FIELD"


async def test_acks_are_the_credit() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False, max_unacked_segments=2) as leg:
            assert leg.all("attached")[0].max_unacked_segments == 2
            await leg.until_sequence(2)
            for acked in range(2, 12):
                await leg.ack(acked)
                await leg.until_sequence(acked + 2)
                await asyncio.sleep(0.03)
                assert leg.sequences[-1] <= max(4, acked + 2), "4: made before it attached"
                assert max(place.stage.streams[0].sent) < max(4, acked + 2)
        async with place.anybody.attached(name, acks=False, max_unacked_segments=64) as leg:
            assert leg.all("attached")[0].max_unacked_segments == 32
            await asyncio.sleep(0.1)
            await leg.until_sequence(11 + 32)
            await asyncio.sleep(0.1)
            assert leg.sequences[-1] == 43


async def test_the_init_comes_before_the_first_segment_and_receipts_are_told_again_at_attach() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as leg:
            await leg.until_segments(1)
            assert leg.kinds.index("media_init") < leg.kinds.index("segment")
            await place.anybody.switch(name, "one", "s1")
            await leg.receipt("s1")
            await place.anybody.switch(name, "two", "s2", at_block=1000)
        async with place.anybody.attached(name, acks=False, after_sequence=1) as leg:
            receipts = {item.request_id: item.state for item in leg.all("attached")[0].receipts}
            assert receipts == {"s1": pb.SWITCH_STATE_APPLIED, "s2": pb.SWITCH_STATE_ACCEPTED}
            await leg.until_segments(1)
            assert leg.kinds[:2] == ["attached", "media_init"]


async def test_a_viewer_starts_at_the_live_edge_and_skips_to_it_when_slow() -> None:
    decoder = FakeDecoder(segment_bytes=200_000)
    async with town(decoders=[decoder]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as leg:
            await leg.until_sequence(20)
            slow = place.anybody.leg()
            await slow.send(attach={"name": name, "role": VIEWER})
            await leg.until_sequence(150)
            assert leg.sequences == list(range(1, len(leg.sequences) + 1))
            slow.start()
            await slow.first("skipped")
            at = slow.all("skipped")[0].next_sequence
            await slow.until_sequence(at + 3)
            start = slow.all("attached")[0].next_sequence
            assert start >= 20
            check_viewer(slow, start)
            await slow.cut()


def check_viewer(leg: Leg, start: int) -> None:
    """Sequences ascend by 1, or `skipped` tells exactly which were left out."""
    expected = start
    for event in leg.events:
        if event.HasField("skipped"):
            assert event.skipped.first_sequence == expected
            expected = event.skipped.next_sequence
        elif event.HasField("segment"):
            assert event.segment.sequence == expected
            expected += 1


async def test_a_viewer_that_resumes_too_late_is_told_what_it_missed() -> None:
    async with town(kept_segments=32) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as leg:
            await leg.until_sequence(60)
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
                await refused(place.anybody.leg(), name=name, role=VIEWER)
            assert (await place.anybody.get(name)).num_viewers == 2
            await second.cut()
            await until_value(lambda: place.anybody.get(name), lambda session: session.num_viewers == 1)
            async with place.anybody.attached(name, role=VIEWER), place.anybody.attached(name):
                assert (await place.anybody.get(name)).num_viewers == 2


async def test_a_half_close_goes_on_receiving() -> None:
    async with town() as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False) as leg:
            await leg.call.done_writing()
            await leg.until_segments(4)
            await asyncio.sleep(0.1)
            assert not leg.is_over
            await place.anybody.delete(name)
            await leg.until_over()
            assert leg.end_reason == "DELETED"


async def test_an_ended_session_is_replayed_and_ends() -> None:
    async with town() as place:
        created = await place.anybody.create(num_blocks=6)
        name = created.session.name
        async with place.anybody.attached(name) as leg:
            await leg.until_over()
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
            await refused(place.anybody.leg(), name=name, after_sequence=7)


async def test_a_session_ends_complete_only_when_all_is_acked() -> None:
    async with town() as place:
        name = await place.anybody.name(num_blocks=3)
        async with place.anybody.attached(name, acks=False) as leg:
            await leg.until_segments(3)
            await leg.ack(2)
            await asyncio.sleep(0.2)
            assert not leg.is_over
            await leg.ack(3)
            await leg.until_over()
            assert leg.end_reason == "COMPLETE"


async def test_a_stream_that_is_cut_leaves_nothing_behind() -> None:
    async with town(stages=[FakeStage()]) as place:
        name = await place.anybody.name()
        for _ in range(20):
            async with place.anybody.attached(name, acks=False):
                pass
        (live,) = place.registry.sessions
        await until(lambda: not live.controller and not live.num_viewers)
