"""What is kept of a session, as a file."""

import asyncio
from pathlib import Path

import pytest

from tests.services.support.gateway_support import until_value
from tests.services.support.media_support import assert_gapless, boxes, needs_ffprobe, samples
from tests.services.support.video_support import FPS, browsing, playing, probed, run, web_town


@needs_ffprobe
async def test_ffprobe_counts_every_picture(tmp_path: Path) -> None:
    async with web_town() as place, browsing(place, "acme") as client:
        async with playing(place, 12) as (name, _):
            answer = await client.get(f"/v1/{name}/video.mp4")
            await place.anybody.delete(name)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "video/mp4"
        assert int(answer.headers["content-length"]) == len(answer.content)
        session = name.removeprefix("sessions/")
        assert answer.headers["content-disposition"] == f'attachment; filename="{session}.mp4"'
        file = tmp_path / "video.mp4"
        file.write_bytes(answer.content)
        stream = await probed(file)
        assert int(stream["nb_read_frames"]) == 12 * 12 - 3
        assert stream["codec_name"] == "h264"
        after = await client.get(f"/v1/{name}/video.mp4")
        assert after.content == answer.content


async def test_the_kept_segments_are_a_gapless_video_when_the_first_are_gone() -> None:
    async with (
        web_town(kept_segments=6, max_unacked_limit=4) as place,
        playing(place, 20) as (name, _),
        browsing(place, "acme") as client,
    ):
        content = (await client.get(f"/v1/{name}/video.mp4")).content
        init = place.decoder.encoder.init_segment
        assert content.startswith(init)
        first = 12 * 14 - 3
        kept = [place.decoder.film(block, first + 12 * at, 12) for at, block in enumerate(range(14, 20))]
        assert content == init + b"".join(kept)
        assert_gapless(init, kept, [12] * 6, place.decoder.encoder.settings.fps)


async def test_a_recording_of_one_segment() -> None:
    async with web_town() as place, playing(place, 1) as (name, _), browsing(place, "acme") as client:
        content = (await client.get(f"/v1/{name}/video.mp4")).content
        assert len(samples(content)) == 9
        assert [path[-1] for path, _ in boxes(content) if len(path) == 1][:2] == [b"ftyp", b"moov"]
        assert place.decoder.encoder.settings.fps == FPS


async def test_nobody_else_gets_it() -> None:
    async with web_town() as place, playing(place, 1) as (name, _):
        url = f"/v1/{name}/video.mp4"
        async with browsing(place) as nobody, browsing(place, "other") as other:
            assert (await nobody.get(url)).status_code == 401
            assert (await other.get(url)).status_code == 404
            token = await place.anybody.token(name)
            assert (await nobody.get(url, params={"resume_token": token})).status_code == 200
            another = await nobody.get("/v1/sessions/none/video.mp4", params={"resume_token": token})
            assert another.status_code == 403
            bad = await nobody.get(url, params={"resume_token": token, "profile": "No Profile"})
            assert (bad.status_code, "profile: " in bad.text) == (400, True)
        async with browsing(place, "unknown") as guest:  # the key is wrong, the token is not
            of_token = {"resume_token": token, "profile": "default"}
            assert (await guest.get(url, params=of_token)).status_code == 200


async def test_downloads_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.web.recording.MAX_DOWNLOADS", 0)
    async with web_town() as place, playing(place, 1) as (name, _), browsing(place, "acme") as client:
        answer = await client.get(f"/v1/{name}/video.mp4")
        assert (answer.status_code, answer.json()["reason"]) == (429, "OVERLOADED")
        monkeypatch.setattr("services.web.recording.MAX_DOWNLOADS", 1)
        for _ in range(3):
            assert (await client.get(f"/v1/{name}/video.mp4")).status_code == 200


@needs_ffprobe
async def test_a_download_is_resumed_while_the_session_goes_on(tmp_path: Path) -> None:
    async with web_town() as place, playing(place, 4) as (name, stream), browsing(place, "acme") as client:
        url = f"/v1/{name}/video.mp4"
        whole = await client.get(url)
        assert whole.headers["accept-ranges"] == "bytes"
        size, etag = len(whole.content), whole.headers["etag"]
        half = await client.get(url, headers={"range": f"bytes=0-{size // 2}"})
        assert (half.status_code, half.content) == (206, whole.content[: size // 2 + 1])
        assert half.headers["content-range"] == f"bytes 0-{size // 2}/{size}"
        await stream.ack(4)
        await stream.until_sequence(5)
        grown = await until_value(lambda: client.get(url), lambda found: found.headers["etag"] != etag)
        more = {"range": f"bytes={size // 2 + 1}-", "if-range": etag}
        others = await client.get(url, headers=more)
        assert (others.status_code, others.headers["etag"]) == (206, etag)
        assert others.headers["content-range"] == f"bytes {size // 2 + 1}-{size - 1}/{size}"
        file = tmp_path / "video.mp4"
        file.write_bytes(half.content + others.content)
        assert file.read_bytes() == whole.content
        assert int((await probed(file))["nb_read_frames"]) == 4 * 12 - 3
        for other in ('"1-9-init-000000000000"', '"2-4"', 'W/"x"', "Mon, 01 Jan 2024 00:00:00 GMT"):
            fresh = await client.get(url, headers={"range": "bytes=5-", "if-range": other})
            assert (fresh.status_code, fresh.content) == (200, grown.content)


async def test_what_is_gone_begins_anew() -> None:
    """A gateway that only keeps the newest cannot go on with what began with older ones."""
    async with web_town(kept_segments=6, max_unacked_limit=4) as place, playing(place, 6) as (name, stream):
        url = f"/v1/{name}/video.mp4"
        for sequence in range(7, 12):
            await stream.ack(sequence - 1)
            await stream.until_sequence(sequence)
        async with browsing(place, "acme") as client:
            kept = await client.get(url)
            assert kept.headers["etag"].startswith('"6-11-')
            before = kept.headers["etag"].replace("6-11", "1-6")
            answer = await client.get(url, headers={"range": "bytes=100-", "if-range": before})
            assert (answer.status_code, answer.content) == (200, kept.content)


async def test_ranges_that_are_none_and_heads() -> None:
    async with web_town() as place, playing(place, 1) as (name, _), browsing(place, "acme") as client:
        url = f"/v1/{name}/video.mp4"
        content = (await client.get(url)).content
        beyond = await client.get(url, headers={"range": f"bytes={len(content)}-"})
        assert (beyond.status_code, beyond.json()["status"]) == (416, 416)
        assert beyond.headers["content-range"] == f"bytes */{len(content)}"
        head = await client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == len(content)
        part = await client.head(url, headers={"range": "bytes=-7"})
        assert (part.status_code, part.headers["content-length"], part.content) == (206, "7", b"")
        several = await client.get(url, headers={"range": "bytes=0-1,4-5"})
        assert (several.status_code, several.content) == (200, content)
        last = await client.get(url, headers={"range": "bytes=-7"})
        assert last.content == content[-7:]


@needs_ffprobe
async def test_a_player_seeks_in_it() -> None:
    async with web_town() as place, playing(place, 12) as (name, _):
        token = await place.anybody.token(name)
        url = f"{place.web}/v1/{name}/video.mp4?resume_token={token}"
        seeking = ["ffmpeg", "-v", "error", "-seekable", "1", "-ss", "6", "-i", url, "-frames:v", "1"]
        lines = (await run(*seeking, "-f", "framemd5", "-")).splitlines()
        assert len([line for line in lines if not line.startswith("#")]) == 1


async def test_a_full_house_is_open_to_those_who_may_look() -> None:
    """Asking whether somebody may read takes no viewer's place."""
    async with web_town(max_viewers=1) as place, playing(place, 3) as (name, _):
        token = await place.anybody.token(name)
        url = f"/v1/{name}/video.mp4"
        async with browsing(place) as nobody, browsing(place, "acme") as owner:
            answers = await asyncio.gather(
                *(nobody.get(url, params={"resume_token": token}) for _ in range(8)),
                *(owner.get(url) for _ in range(8)),
            )
        assert [answer.status_code for answer in answers] == [200] * 16
        assert (await place.anybody.get(name)).num_viewers == 1
