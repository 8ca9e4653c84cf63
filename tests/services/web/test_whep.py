"""Video by WebRTC, to a player that others wrote (aiortc); Chromium's is in tests/browser."""

import asyncio
import time

import pytest

from services.web.webrtc.descriptions import with_public_address
from services.web.webrtc.pace import LATE_S, Pace
from services.web.whep import link_of
from tests.services.support.gateway_support import until
from tests.services.support.http_support import problem
from tests.services.support.video_support import TENANTS, browsing, playing, web_town
from tests.services.support.whep_support import LOOPBACK, SDP, whep_player


def path(name: str, query: str = "") -> str:
    return f"/v1/{name}/whep{query}"


async def test_a_controller_plays_a_session_to_its_end_and_steers_it() -> None:
    async with web_town(http=LOOPBACK) as place, browsing(place, TENANTS[0]) as client:
        name = await place.anybody.name(num_blocks=5)
        async with whep_player() as player:
            await player.connect(client, path(name, "?role=controller"))
            await until(lambda: player.channel.readyState == "open")
            wish = '{"switchPrompt": {"requestId": "switch-1", "promptSwitch": {"text": "a blue square"}}}'
            player.channel.send(wish)
            await until(lambda: player.told("ended"))
            assert player.told("ended")[0]["reason"] == "END_REASON_COMPLETE"
            assert [each["sequence"] for each in player.told("segment")] == ["1", "2", "3", "4", "5"]
            assert {each["media"]["data"] for each in player.told("segment")} == {""}
            assert "switch-1" in {each["requestId"] for each in player.told("promptReceipt")}
            await until(lambda: player.connection.connectionState == "closed")
            assert player.num_pictures >= 5 * 12 - 3 - 2  # the jitter buffer keeps the last


async def test_a_controller_gets_its_blocks_just_in_time() -> None:
    """Without that, four were made ahead."""
    async with (
        web_town(http=LOOPBACK, max_unacked_segments=4) as place,
        browsing(place, TENANTS[0]) as client,
    ):
        name = await place.anybody.name()
        async with whep_player() as player:
            await player.connect(client, path(name, "?role=controller"))
            (live,) = place.registry.sessions
            await until(lambda: len(player.told("segment")) >= 5)
            assert live.just_in_time.lead_s(time.monotonic())
            session = await place.anybody.get(name)
            assert session.last_sequence - session.acked_sequence < 4
            await place.anybody.pause(name)
            await until(lambda: any(each["paused"] for each in player.told("stateChanged")))
            before = live.just_in_time.num_stalls
            await asyncio.sleep(4 * 0.75)  # until nothing is left
            assert live.just_in_time.num_stalls == before, "a pause is none"


async def test_viewers_with_a_token_alone_watch_and_may_not_steer() -> None:
    async with (
        web_town(http=LOOPBACK) as place,
        playing(place, 3) as (name, stream),
        browsing(place) as client,
    ):
        token = await place.anybody.token(name)
        async with whep_player() as player:
            await player.connect(client, path(name, f"?resume_token={token}"))
            await until(lambda: player.channel.readyState == "open")
            for sequence in range(4, 8):
                await stream.ack(sequence - 1)
                await stream.until_sequence(sequence)
            await until(lambda: player.num_pictures > 12)
            player.channel.send('{"ack": {"sequence": "3"}}')
            await until(lambda: player.told("problem"))
            assert "`switchPrompt`, `setPaused` and `end`" in player.told("problem")[0]["detail"]
            assert (await client.delete(player.location)).status_code == 200
            await until(lambda: player.connection.connectionState == "closed")
            problem(await client.delete(player.location), 404)


@pytest.mark.parametrize(("most", "whose"), [(1, "this gateway has"), (7, "this session has")])
async def test_what_cannot_be_answered_says_why(most: int, whose: str) -> None:
    bounds = LOOPBACK | {
        "webrtc_max_players": most,
        "webrtc_ice_servers": ("turn:user:word@turn.example.com:3478",),
    }
    async with (
        web_town(http=bounds) as place,
        playing(place, 1) as (name, _),
        browsing(place, TENANTS[0]) as client,
        browsing(place) as nobody,
    ):
        problem(await client.post(path(name), content="v=0", headers={"content-type": "text/plain"}), 415)
        for offer, said in {
            "v=0\r\n": "the offer asks for no video",
            "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000\r\n": "has no H.264",
            "v=0\r\nm=video x\r\na=rtpmap:96 H264/90000\r\n": "the offer cannot be answered",
        }.items():
            answer = await client.post(path(name), content=offer, headers=SDP)
            assert said in problem(answer, 400)["detail"]
        problem(await client.post(path(name, "?role=owner"), content="v=0", headers=SDP), 400)
        async with whep_player() as player, whep_player() as second:
            offer = await second.offer()
            problem(await nobody.post(path(name), content=offer, headers=SDP), 401, "UNAUTHENTICATED")
            problem(
                await client.post(path("sessions/none"), content=offer, headers=SDP), 404, "SESSION_NOT_FOUND"
            )
            await player.connect(client, path(name))
            assert 'turn:turn.example.com:3478>; rel="ice-server"; username="user"' in player.link
            refused = await client.post(path(name), content=offer, headers=SDP)
            assert whose in problem(refused, 429, "OVERLOADED")["detail"]


async def test_it_is_off_unless_asked_for() -> None:
    async with web_town() as place, browsing(place, TENANTS[0]) as client:
        assert (await client.post(path("sessions/none"), content="v=0", headers=SDP)).status_code == 404


@pytest.mark.parametrize(
    ("server", "link"),
    [
        ("stun:stun.example.com:3478", '<stun:stun.example.com:3478>; rel="ice-server"'),
        (
            "turns:user:word@turn.example.com:5349?transport=tcp",
            '<turns:turn.example.com:5349?transport=tcp>; rel="ice-server"; '
            'username="user"; credential="word"; credential-type="password"',
        ),
    ],
)
def test_players_are_told_of_ice_servers_as_whep_says(server: str, link: str) -> None:
    assert link_of(server) == link


def test_candidates_have_the_address_that_the_world_reaches() -> None:
    answer = (
        "c=IN IP4 10.0.0.5\r\n"
        "a=candidate:1 1 udp 2130706431 10.0.0.5 40000 typ host\r\n"
        "a=candidate:2 1 udp 2130706431 fd00::5 40001 typ host\r\n"
    )
    assert with_public_address(answer, "203.0.113.9") == answer.replace("10.0.0.5", "203.0.113.9")


def test_pictures_leave_evenly_and_a_pause_moves_what_follows() -> None:
    pace = Pace()
    assert pace.due_s(7.0, now_s=100.0) == 100.0
    assert pace.due_s(7.5, now_s=100.1) == 100.5
    assert pace.since_start_s(100.5) == 0.5
    late = 100.5 + 2 * LATE_S
    assert pace.due_s(7.6, now_s=late) == late, "not at once what was missed"
    assert pace.due_s(7.7, now_s=late) == pytest.approx(late + 0.1)
    assert pace.due_s(70.0, now_s=late + 1) == late + 1, "segments were skipped"
