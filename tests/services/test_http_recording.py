"""What is kept of a session, as a file."""

from pathlib import Path

import pytest

from tests.services.media_support import assert_gapless, boxes, needs_ffprobe, samples
from tests.services.video_support import FPS, browsing, playing, probed, web_town


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


async def test_downloads_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.http.recording.MAX_DOWNLOADS", 0)
    async with web_town() as place, playing(place, 1) as (name, _), browsing(place, "acme") as client:
        answer = await client.get(f"/v1/{name}/video.mp4")
        assert (answer.status_code, answer.json()["reason"]) == (429, "OVERLOADED")
        monkeypatch.setattr("services.gateway.http.recording.MAX_DOWNLOADS", 1)
        for _ in range(3):
            assert (await client.get(f"/v1/{name}/video.mp4")).status_code == 200
