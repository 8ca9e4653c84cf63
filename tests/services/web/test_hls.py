"""HLS, read by ffprobe and by an HTTP client."""

import asyncio
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from services.common.errors import NotReady
from services.web import hls
from services.web.kept import KeptVideo
from services.web.playlist import WINDOW, playlist_of
from tests.services.support.gateway_support import Response, until_value
from tests.services.support.media_support import needs_ffprobe
from tests.services.support.video_support import WebTown, browsing, playing, probed, run, web_town


def tag(text: str, name: str) -> list[str]:
    return re.findall(rf"^#EXT-X-{name}:?(.*)$", text, re.MULTILINE)


def names(text: str) -> list[str]:
    """Of the segments."""
    return re.findall(r"^(\d+)\.m4s", text, re.MULTILINE)


async def until_viewers(place: WebTown, name: str, number: int) -> None:
    await until_value(lambda: place.anybody.get(name), lambda session: session.num_viewers == number)


def num_frames(num_segments: int) -> int:
    return 12 * num_segments - 3


@needs_ffprobe
async def test_ffprobe_reads_a_recording_whole() -> None:
    async with web_town() as place:
        async with playing(place, 20) as (name, _):
            token = await place.anybody.token(name)
            await place.anybody.delete(name)
        url = f"{place.web}/v1/{name}/hls/index.m3u8?resume_token={token}"
        assert int((await probed(url))["nb_read_frames"]) == num_frames(20)
        async with browsing(place) as client:
            text = (await client.get(url)).text
        assert tag(text, "ENDLIST") == [""]
        assert tag(text, "MEDIA-SEQUENCE") == ["1"]
        assert tag(text, "TARGETDURATION") == ["1"]
        assert names(text) == [str(number) for number in range(1, 21)]


@needs_ffprobe
async def test_ffmpeg_plays_the_live_edge_to_the_end(tmp_path: Path) -> None:
    """From where a player starts, over segments that come while it plays, to ENDLIST: each picture once."""
    async with web_town() as place, playing(place, 8) as (name, stream):
        token = await place.anybody.token(name)
        url = f"{place.web}/v1/{name}/hls/index.m3u8?resume_token={token}"
        file = tmp_path / "live.mp4"
        command = [
            "ffmpeg",
            "-v",
            "error",
            "-live_start_index",
            "0",
            "-i",
            url,
            "-c",
            "copy",
            "-y",
            str(file),
        ]
        player = asyncio.create_task(run(*command))
        await until_viewers(place, name, 1)
        for sequence in range(9, 13):
            await stream.ack(sequence - 1)
            await stream.until_sequence(sequence)
        await place.anybody.delete(name)
        await player
        assert int((await probed(file))["nb_read_frames"]) == num_frames(12)


async def test_a_live_playlist_slides_and_its_files_are_there() -> None:
    async with web_town() as place, playing(place, 3) as (name, stream), browsing(place, "acme") as client:
        folder = f"/v1/{name}/hls"
        first = await client.get(f"{folder}/index.m3u8")
        assert first.status_code == 200
        assert first.headers["content-type"].startswith("application/vnd.apple.mpegurl")
        assert not tag(first.text, "ENDLIST")
        assert names(first.text) == ["1", "2", "3"]
        (init,) = re.findall('URI="(.*)"', *tag(first.text, "MAP"))
        assert (await client.get(f"{folder}/{init}")).content == place.decoder.encoder.init_segment
        for number in (1, 2, 3):
            answer = await client.get(f"{folder}/{number}.m4s")
            frames = (0, 9) if number == 1 else (12 * (number - 1) - 3, 12)
            assert answer.content == place.decoder.film(number - 1, *frames)
        await stream.ack(3)
        await stream.until_sequence(4)
        await until_value(lambda: client.get(f"{folder}/index.m3u8"), lambda found: "4" in names(found.text))
        for missing in ("99.m4s", "0.m4s", "init-000000000000.mp4", "other.txt", "-1.m4s", "..%2f..%2fx"):
            assert (await client.get(f"{folder}/{missing}")).status_code == 404


async def test_many_readers_cost_one_viewer() -> None:
    async with web_town() as place, playing(place, 4) as (name, _):
        token = await place.anybody.token(name)
        path = f"/v1/{name}/hls/index.m3u8?resume_token={token}"
        async with browsing(place) as client:
            answers = await asyncio.gather(*(client.get(path) for _ in range(100)))
            assert {answer.status_code for answer in answers} == {200}
            await until_viewers(place, name, 1)  # those by which readers were let in leave


async def test_what_nobody_reads_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.web.follower.IDLE_S", 0.3)
    async with web_town() as place, playing(place, 2) as (name, _), browsing(place, "acme") as client:
        assert (await client.get(f"/v1/{name}/hls/index.m3u8")).status_code == 200
        await until_viewers(place, name, 0)
        assert (await client.get(f"/v1/{name}/hls/1.m4s")).status_code == 200


async def test_who_may_not_read() -> None:
    async with web_town() as place, playing(place, 2) as (name, _):
        theirs = await place.tenants["other"].token(await place.tenants["other"].name())
        paths = ("index.m3u8", "1.m4s", "init-000000000000.mp4")
        async with browsing(place, "acme") as mine:
            assert (await mine.get(f"/v1/{name}/hls/index.m3u8")).status_code == 200
        for path in paths:
            url = f"/v1/{name}/hls/{path}"
            async with browsing(place) as nobody, browsing(place, "other") as other:
                assert (await nobody.get(url)).status_code == 401
                assert (await nobody.get(url, params={"resume_token": "forged"})).status_code == 401
                assert (await nobody.get(url, params={"resume_token": theirs})).status_code == 403
                answer = await other.get(url)
                assert answer.status_code == 404
                assert answer.json()["reason"] == "SESSION_NOT_FOUND"
                assert answer.headers["content-type"] == "application/problem+json"


async def test_a_session_without_video_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.web.hls.READY_S", 0.2)
    async with web_town(open_s=60.0, open_timeout_s=60.0) as place, browsing(place, "acme") as client:
        name = await place.anybody.name()
        answer = await client.get(f"/v1/{name}/hls/index.m3u8")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]


async def test_a_token_in_the_query_is_repeated_behind_each_name() -> None:
    async with web_town() as place, playing(place, 2) as (name, _), browsing(place) as client:
        token = await place.anybody.token(name)
        url = f"/v1/{name}/hls/index.m3u8"
        text = (await client.get(url, params={"resume_token": token})).text
        assert text.count(f"?resume_token={quote(token)}") == 3
        text = (await client.get(url, headers={"x-resume-token": token})).text
        assert "?" not in text


async def test_a_stream_that_is_lost_is_mended_behind_the_readers() -> None:
    async with web_town() as place, playing(place, 3) as (name, stream), browsing(place, "acme") as client:
        url = f"/v1/{name}/hls/index.m3u8"
        assert names((await client.get(url)).text) == ["1", "2", "3"]
        live = place.registry.find(name.removeprefix("sessions/"))
        viewers = [each for each in live._attachments if not each.is_controller]
        assert len(viewers) == 1
        viewers[0].close(NotReady("lost"))
        await stream.ack(3)
        await stream.until_sequence(4)
        found = await until_value(lambda: client.get(url), lambda found: "4" in names(found.text))
        assert names(found.text) == ["1", "2", "3", "4"]


async def test_no_token_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as lines:
        async with web_town() as place, playing(place, 2) as (name, _), browsing(place) as client:
            token = await place.anybody.token(name)
            for path in ("hls/index.m3u8", "hls/1.m4s", "hls/99.m4s", "video.mp4", "nothing"):
                await client.get(f"/v1/{name}/{path}", params={"resume_token": token})
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    said = "".join((*map(str, lines), *ours, *capfd.readouterr()))
    assert "hls/index.m3u8" in said
    assert token.rpartition(".")[2] not in said


def event(sequence: int, num_frames: int = 12) -> Response:
    segment = Response.Segment(sequence=sequence)
    segment.media.block, segment.media.num_frames, segment.media.data = sequence - 1, num_frames, b"x" * 10
    first = 12 * (sequence - 1) - 3 if sequence > 1 else 0
    segment.media.presentation_time.FromNanoseconds(round(first / 16 * 1e9))
    segment.media.duration.FromNanoseconds(round(num_frames / 16 * 1e9))
    return Response(segment=segment)


def part(sequence: int, index: int, epoch: int = 1, num_frames: int = 4) -> Response:
    made = Response.Part(sequence=sequence, epoch=epoch, index=index)
    made.media.num_frames, made.media.data = num_frames, b"%d.%d.%d " % (sequence, epoch, index)
    made.media.duration.FromNanoseconds(round(num_frames / 16 * 1e9))
    return Response(part=made)


def in_parts(sequence: int) -> Response:
    """The segment behind its parts."""
    made = event(sequence)
    made.segment.num_parts = 3
    made.segment.media.ClearField("data")
    return made


def parts_of(text: str) -> list[str]:
    return re.findall(r'^#EXT-X-PART:DURATION=[\d.]+,URI="([^"?]+)', text, re.MULTILINE)


def test_parts_are_listed_before_their_segment_is_there() -> None:
    video = KeptVideo(max_segments=1000, max_bytes=10**6)
    video.take(started(b"one"))
    video.take(event(1, num_frames=9))
    for sequence in range(2, 12):
        for index in range(3):
            video.take(part(sequence, index, epoch=2))
        video.take(in_parts(sequence))
    video.take(part(12, 0, epoch=2))
    text = playlist_of(video, "?q", in_parts=True)
    assert parts_of(text)[:3] == ["6.2.0.m4s", "6.2.1.m4s", "6.2.2.m4s"], "those of the newest segments"
    assert parts_of(text)[-2:] == ["11.2.2.m4s", "12.2.0.m4s"]
    assert '#EXT-X-PART:DURATION=0.250000,URI="12.2.0.m4s?q",INDEPENDENT=YES' in text
    assert tag(text, "PRELOAD-HINT") == ['TYPE=PART,URI="12.2.1.m4s?q"']
    assert tag(text, "PART-INF") == ["PART-TARGET=0.250000"]
    assert tag(text, "SERVER-CONTROL") == ["CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.250"]
    kept = video.find(11)
    assert kept
    assert kept.data == b"11.2.0 11.2.1 11.2.2 "
    assert [video.has(11), video.has(12), video.has(12, 0), video.has(12, 1)] == [True, False, True, False]
    plain = playlist_of(video, "?q")
    assert "PART" not in plain
    assert names(plain) == names(text) == [str(number) for number in range(1, 12)]


def test_parts_made_again_have_other_names_and_a_segment_that_came_whole_has_none() -> None:
    video = KeptVideo(max_segments=1000, max_bytes=10**6)
    video.take(started(b"one"))
    video.take(event(1, num_frames=9))
    video.take(part(2, 0))
    video.take(part(2, 1))
    video.take(part(2, 0, epoch=2))
    assert parts_of(playlist_of(video, "", in_parts=True)) == ["2.2.0.m4s"]
    assert video.find_part(2, 1, 0) is None
    video.take(event(2))
    text = playlist_of(video, "", in_parts=True)
    assert (parts_of(text), names(text)) == ([], ["1", "2"])
    video.take(Response(ended={}))
    assert "PART" not in playlist_of(video, "", in_parts=True)


async def test_a_player_waits_for_the_next_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it asks for the playlist or for the part that it names ahead."""
    async with web_town() as place, playing(place, 3) as (name, stream), browsing(place, "acme") as client:
        path = f"/v1/{name}/hls"
        text = (await client.get(f"{path}/low-latency.m3u8")).text
        assert tag(text, "PRELOAD-HINT") == ['TYPE=PART,URI="4.1.0.m4s"']
        place.decoder.gate.clear()
        asked = f"{path}/low-latency.m3u8?_HLS_msn=4&_HLS_part=1"
        waiting = [asyncio.create_task(client.get(url)) for url in (asked, f"{path}/4.1.0.m4s")]
        await stream.ack(3)
        listed, found = await asyncio.gather(*waiting)
        assert parts_of(listed.text)[-2:] == ["4.1.0.m4s", "4.1.1.m4s"]
        assert names(listed.text)[-1] == "3"
        assert found.status_code == 200
        assert found.headers["cache-control"].endswith("immutable")
        rest = asyncio.create_task(client.get(f"{path}/low-latency.m3u8?_HLS_msn=4"))
        place.decoder.gate.set()
        assert names((await rest).text)[-1] == "4"
        parts = [(await client.get(f"{path}/4.1.{index}.m4s")).content for index in range(3)]
        assert parts[0] == found.content
        assert b"".join(parts) == (await client.get(f"{path}/4.m4s")).content
        monkeypatch.setattr(hls, "BLOCKED_S", 0.1)
        nothing_new = await client.get(f"{path}/low-latency.m3u8?_HLS_msn=5&_HLS_part=0")
        assert names(nothing_new.text)[-1] == "4", "a session that stands still is no error"
        bad = {"_HLS_msn=99": "_HLS_msn", "_HLS_part=0": "_HLS_part", "_HLS_msn=x": "_HLS_msn"}
        for query, field in bad.items():
            refused = await client.get(f"{path}/low-latency.m3u8?{query}")
            assert (refused.status_code, field in refused.text) == (400, True)
        for part_name in ("4.1.9", "4.7.0", "9.1.0"):
            assert (await client.get(f"{path}/{part_name}.m4s")).status_code == 404


def started(data: bytes) -> Response:
    return Response(media_init={"profile_id": "default", "data": data})


def test_another_encoder_is_a_discontinuity_that_is_counted() -> None:
    video = KeptVideo(max_segments=1000, max_bytes=10**6)
    video.take(started(b"one"))
    for sequence in range(1, 4):
        video.take(event(sequence))
    video.take(started(b"two"))
    for sequence in range(4, 7):
        video.take(event(sequence))
    text = playlist_of(video, "")
    assert len(tag(text, "DISCONTINUITY\n")) == 1
    assert len(set(tag(text, "MAP"))) == 2
    assert not tag(text, "DISCONTINUITY-SEQUENCE")
    for sequence in range(7, 4 + WINDOW):
        video.take(event(sequence))
    text = playlist_of(video, "")
    assert tag(text, "DISCONTINUITY-SEQUENCE") == ["1"]
    assert tag(text, "MEDIA-SEQUENCE") == ["4"]
    assert len(tag(text, "MAP")) == 1


def test_the_window_is_bounded_and_a_gap_begins_it_anew() -> None:
    video = KeptVideo(max_segments=5, max_bytes=45)
    video.take(started(b"one"))
    for sequence in range(1, 9):
        video.take(event(sequence))
        video.take(event(sequence))  # sent twice
    assert [kept.sequence for kept in video.segments] == [5, 6, 7, 8]
    video.take(event(20))
    assert [kept.sequence for kept in video.segments] == [20]
    assert video.find(8) is None
    assert video.find(20) is not None
