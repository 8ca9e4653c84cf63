"""Connect over a WebSocket, by a client library that knows nothing of Cascade."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
import websockets

from tests.services.support.gateway_support import fresh_id, until, until_value
from tests.services.support.media_support import assert_gapless, samples
from tests.services.support.video_support import (
    Browser,
    WebTown,
    browsing,
    open_socket,
    page,
    playing,
    web_town,
)

KEY = {"credential": "key-acme"}


async def closed(place: WebTown, name: str, *messages: str | bytes) -> tuple[int, dict[str, Any]]:
    """What a socket that says this is closed with: code and problem."""
    async with open_socket(place, name) as socket:
        browser = Browser(socket, acks=False)
        for message in messages:
            await socket.send(message)
        await browser.until_closed()
        assert browser.code
        return browser.code, browser.problem


def states(browser: Browser) -> list[str]:
    """Of the receipts."""
    return [receipt["state"] for receipt in browser.all("promptReceipt")]


async def test_a_page_that_asks_is_fed_in_parts() -> None:
    """What it appends, part by part, is one video; a segment that came so is empty."""
    async with web_town() as place:
        place.decoder.block_s = 0.06
        name = await place.anybody.name()
        async with page(place, name, message=KEY, withParts=True) as browser:
            await browser.until(
                lambda: len([each for each in browser.all("segment") if "numParts" in each]) > 2
            )
            segments, parts = browser.all("segment"), browser.all("part")
            assert {part["media"]["numFrames"] for part in parts} <= {1, 4}
            media = []
            for segment, data in zip(segments, browser.media, strict=True):
                own = [
                    piece
                    for part, piece in zip(parts, browser.parts, strict=False)
                    if part["sequence"] == segment["sequence"]
                ]
                assert (len(own), data) == (segment["numParts"], b"") if "numParts" in segment else data
                media.append(b"".join(own) if "numParts" in segment else data)
            frames = [each["media"]["numFrames"] for each in segments]
            assert_gapless(browser.init, media, frames, place.decoder.encoder.settings.fps)


async def test_a_page_plays_steers_and_ends_a_session() -> None:
    async with web_town() as place:
        created = await place.anybody.create()
        name = created.session.name
        async with page(place, name, resumeToken=created.resume_token) as browser:
            attached = await browser.first("attached")
            assert attached["session"]["name"] == name
            assert attached["role"] == "CONNECT_ROLE_CONTROLLER"
            await browser.until_segments(4)
            await browser.send(switchPrompt={"requestId": "s0", "promptSwitch": {"text": "a", "mode": 99}})
            failed = await browser.first("requestFailed")
            assert failed["requestId"] == "s0"
            assert "switch_prompt.prompt_switch.mode" in failed["status"]["message"]
            await browser.send(switchPrompt={"requestId": "s1", "promptSwitch": {"text": "a blue square"}})
            await browser.until(
                lambda: [
                    item for item in browser.all("promptReceipt") if item["state"] == "SWITCH_STATE_APPLIED"
                ]
            )
            await browser.send(setPaused={"requestId": fresh_id(), "paused": True})
            await browser.until(lambda: [item for item in browser.all("stateChanged") if item["paused"]])
            await browser.send(end={"requestId": fresh_id()})
            assert (await browser.first("ended"))["reason"] == "END_REASON_DELETED"
            await browser.until_closed()
            assert browser.code == 1000
        assert browser.sequences == list(range(1, len(browser.sequences) + 1))
        assert len(samples(browser.init + b"".join(browser.media))) == 12 * len(browser.media) - 3
        assert browser.init == place.decoder.encoder.init_segment


async def test_no_more_is_sent_than_is_acknowledged() -> None:
    async with web_town() as place:
        name = await place.anybody.name()
        async with page(place, name, acks=False, message=KEY, maxUnackedSegments=3) as browser:
            await browser.until_segments(3)
            await browser.ack(1)
            await browser.until_segments(4)
            session = await place.anybody.get(name)
            assert session.last_sequence == session.acked_sequence + 3 == 4
            assert browser.sequences == [1, 2, 3, 4]


async def test_acks_say_what_a_player_has() -> None:
    async with web_town() as place:
        name = await place.anybody.name()
        async with page(place, name, acks=False, message=KEY) as browser:
            assert (await browser.first("attached"))["justInTime"]
            await browser.until_segments(1)
            has = {"playhead": "0.25s", "buffered": "0.312s", "numStalls": 1, "waiting": False}
            await browser.send(ack={"sequence": "1", "playback": has})
            (live,) = place.registry.sessions
            await until(lambda: live.just_in_time.num_stalls == 1)
            assert 0.25 <= (live.just_in_time.playhead_s(time.monotonic()) or 0.0) < 20
            await browser.send(ack={"sequence": "1", "playback": has | {"buffered": "3601s"}})
            await browser.until_closed()
            assert browser.code == 4400
            (violation,) = browser.problem["fieldViolations"]
            assert violation["field"] == "ack.playback.buffered"


async def test_resuming_repeats_nothing_and_leaves_nothing_out() -> None:
    async with web_town() as place:
        name = await place.anybody.name()
        async with page(place, name, message=KEY) as browser:
            await browser.until_segments(5)
            token = browser.all("attached")[0]["resumeToken"]
            await browser.cut()
            first = browser.sequences
        async with page(place, name, resumeToken=token, afterSequence=str(first[-1])) as again:
            await again.until_segments(5)
        assert [*first, *again.sequences] == list(range(1, len(first) + len(again.sequences) + 1))


async def test_a_viewer_watches_and_holds_nobody_back() -> None:
    async with web_town() as place, playing(place, 2) as (name, stream):
        token = await place.anybody.token(name)
        async with page(place, name, acks=False, resumeToken=token) as viewer:
            await viewer.until_segments(1)
            assert viewer.sequences == [2]
            assert viewer.all("attached")[0]["role"] == "CONNECT_ROLE_VIEWER"
            viewer.socket.transport.pause_reading()
            for sequence in range(3, 60):
                await stream.ack(sequence - 1)
                await stream.until_sequence(sequence)
            viewer.socket.transport.resume_reading()
            await viewer.until(lambda: viewer.sequences[-1] == 59)
            await viewer.send(setPaused={"requestId": "p", "paused": True})
            failed = await viewer.first("requestFailed")
            assert failed["requestId"] == "p"
            assert not (await place.anybody.get(name)).paused


async def test_a_hundred_viewers_cost_one_decode() -> None:
    async with web_town() as place, playing(place, 2) as (name, stream), AsyncExitStack() as stack:
        token = await place.anybody.token(name)
        pages = [page(place, name, acks=False, resumeToken=token) for _ in range(100)]
        viewers = [await stack.enter_async_context(each) for each in pages]
        for viewer in viewers:
            await viewer.until_segments(1)
        assert (await place.anybody.get(name)).num_viewers == 100
        for sequence in range(3, 7):
            await stream.ack(sequence - 1)
            await stream.until_sequence(sequence)
        for viewer in viewers:
            await viewer.until(lambda viewer=viewer: viewer.sequences[-1] == 6)
            assert viewer.media[-1] == viewers[0].media[-1]
        assert place.decoder.num_blocks == 6


async def test_from_the_oldest() -> None:
    async with (
        web_town() as place,
        playing(place, 30) as (name, _),
        page(place, name, message=KEY, role="CONNECT_ROLE_VIEWER", fromOldest=True) as viewer,
    ):
        await viewer.until_segments(30)
        assert viewer.sequences == list(range(1, 31))
        assert not viewer.all("skipped")


async def test_a_newer_controller_replaces_the_older() -> None:
    async with web_town() as place:
        name = await place.anybody.name()
        async with page(place, name, message=KEY) as old:
            await old.until_segments(1)
            async with page(place, name, message=KEY) as new:
                await old.until_closed()
                assert (old.code, old.problem["reason"]) == (4409, "CONTROLLER_REPLACED")
                await new.until_segments(1)


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ("{", 4400, "MALFORMED"),
        ("[]", 4400, "MALFORMED"),
        ("[" * 10_000, 4400, "MALFORMED"),
        (b"\x00\x01", 4400, "MALFORMED"),
        ('{"attach": {"afterSequence": "x"}}', 4400, "INVALID_FIELD"),
        ('{"attach": {"afterSequence": -1}}', 4400, "INVALID_FIELD"),
        ('{"attach": {"nothing": 1}}', 4400, "INVALID_FIELD"),
        ('{"attach": {"maxUnackedSegments": 65}, "credential": "key-acme"}', 4400, "INVALID_FIELD"),
        ('{"attach": {"name": "sessions/another"}, "credential": "key-acme"}', 4400, "INVALID_FIELD"),
        ('{"attach": {}, "credential": 7}', 4400, "INVALID_FIELD"),
        ('{"attach": {}, "credential": "a\\r\\nb"}', 4400, "INVALID_FIELD"),
        ('{"ack": {"sequence": "1"}}', 4409, "PROTOCOL_VIOLATION"),
        ("{}", 4409, "PROTOCOL_VIOLATION"),
        ('{"attach": {}}', 4401, "UNAUTHENTICATED"),
        ('{"attach": {}, "credential": "key-nobody"}', 4401, "UNAUTHENTICATED"),
        ('{"attach": {"resumeToken": "forged"}}', 4401, "UNAUTHENTICATED"),
        ('{"attach": {}, "credential": "key-other"}', 4404, "SESSION_NOT_FOUND"),
        ('{"attach": {"afterSequence": "999"}, "credential": "key-acme"}', 4400, "SEQUENCE_AHEAD"),
    ],
)
async def test_refusals(message: str | bytes, code: int, reason: str) -> None:
    async with web_town() as place:
        name = await place.anybody.name()
        found, problem = await closed(place, name, message)
        assert (found, problem["reason"]) == (code, reason)
        assert problem["detail"]


async def test_a_socket_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.web.websocket.MESSAGE_DEADLINE_S", 0.2)
    async with web_town() as place:
        code, problem = await closed(place, "sessions/any")
        assert (code, problem["reason"]) == (4504, "FIRST_MESSAGE_LATE")


async def test_sockets_are_bounded() -> None:
    async with web_town(http={"max_connections": 4}) as place:
        name = await place.anybody.name()
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(open_socket(place, name))
            with pytest.raises((OSError, websockets.InvalidMessage)):
                await open_socket(place, name)
        async with page(place, name, message=KEY) as browser:
            await browser.first("attached")


async def test_messages_that_end_an_attached_stream() -> None:
    attach = json.dumps({"attach": {"role": "CONNECT_ROLE_CONTROLLER"}, **KEY})
    async with web_town() as place:
        name = await place.anybody.name()
        for message in (json.dumps({"attach": {"name": name}}), '{"ack": {"sequence": "99"}}'):
            code, problem = await closed(place, name, attach, message)
            assert (code, problem["reason"]) == (4409, "PROTOCOL_VIOLATION")
        for ack in (
            '{"sequence": "0"}',
            '{"sequence": "1", "playback": {}}',
            '{"sequence": "1", "playback": {"playhead": "NaN"}}',
            '{"sequence": "1", "playback": {"playhead": "-0.1s"}}',
            '{"sequence": "1", "playback": {"playhead": 1.5}}',
        ):
            code, problem = await closed(place, name, attach, f'{{"ack": {ack}}}')
            assert (code, problem["reason"]) == (4400, "INVALID_FIELD"), ack
        code, _ = await closed(place, name, attach, " " * 2**20)
        assert code == 1009
        await until_value(lambda: place.anybody.get(name), lambda session: not session.has_controller)


async def test_tokens_of_others_and_expired_ones() -> None:
    async with web_town() as place:
        name, theirs = await place.anybody.name(), await place.tenants["other"].name()
        stolen = await place.tenants["other"].token(theirs)
        attach = json.dumps({"attach": {"resumeToken": stolen}})
        assert (await closed(place, name, attach))[0] == 4403
        viewer = await place.anybody.token(name)
        attach = json.dumps({"attach": {"resumeToken": viewer, "role": "CONNECT_ROLE_CONTROLLER"}})
        assert (await closed(place, name, attach))[0] == 4403
        old, _ = place.registry.shared.tokens.issue(name.removeprefix("sessions/"), "acme", "viewer", -1.0)
        code, problem = await closed(place, name, json.dumps({"attach": {"resumeToken": old}}))
        assert (code, problem["reason"]) == (4401, "EXPIRED_CREDENTIAL")


async def test_handshakes_that_are_refused() -> None:
    async with web_town(http={"cors_origins": ("https://app.example.com",)}) as place:
        name = await place.anybody.name()
        with pytest.raises(websockets.InvalidStatus) as caught:
            await open_socket(place, name, origin="https://evil.example.com")
        assert caught.value.response.status_code == 403
        with pytest.raises(websockets.InvalidStatus) as caught:
            await open_socket(place, name, subprotocols=["cascade.v9"])
        assert caught.value.response.status_code == 400
        async with open_socket(place, name, origin="https://app.example.com"):
            pass
        async with browsing(place, "acme") as client:
            answer: httpx2.Response = await client.get(f"/v1/{name}/connect")
            assert answer.status_code in (404, 426)


async def test_a_flood_holds_nobody_up_and_is_forgotten() -> None:
    """Sockets that say much and read nothing; then all is as before."""
    attach = json.dumps({"attach": {"role": "CONNECT_ROLE_VIEWER"}, **KEY})
    spam = json.dumps({"setPaused": {"requestId": "x", "paused": True}})
    async with web_town() as place, playing(place, 2) as (name, stream):

        async def flood() -> None:
            async with open_socket(place, name, max_queue=1) as socket:
                await socket.send(attach)
                for _ in range(300):
                    await socket.send(spam)

        await asyncio.gather(*(flood() for _ in range(8)))
        await stream.ack(2)
        await stream.until_sequence(3)
        await until_value(lambda: place.anybody.get(name), lambda session: not session.num_viewers)


async def test_a_gateway_that_leaves_keeps_no_socket() -> None:
    async with web_town() as place:
        name = await place.anybody.name()
        async with page(place, name, message=KEY) as browser:
            await browser.until_segments(2)
            leaving = asyncio.create_task(place.server.close())
            assert (await browser.first("ended"))["reason"] == "END_REASON_FAILED"  # its journal is in memory
            await browser.until_closed()
            await until(leaving.done)
