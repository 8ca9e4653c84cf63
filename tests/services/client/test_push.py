"""A session's video at receivers that others wrote: FFmpeg (RTMP, SRT), aiortc (WHIP)."""

import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from cascade.v1.session_pb2 import END_REASON_FAILED, SessionEnd
from cascade_client import CannotPush, Client, Event
from cascade_client.push import Pushed, Target, push, sender
from tests.services.support.command_support import cascade
from tests.services.support.fake_gateway import BLOCK_FRAMES, SIDE, Script, serving
from tests.services.support.ports import free_port
from tests.services.support.receivers import listening, num_pictures, whip_endpoint

WAIT_S = 60.0
NUM_BLOCKS = 4
NUM_PICTURES = NUM_BLOCKS * BLOCK_FRAMES - 3
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")


async def pushed_to(
    target: Target, script: Script | None = None, num_blocks: int = NUM_BLOCKS, **options: object
) -> Pushed:
    async with (
        asyncio.timeout(WAIT_S),
        serving(script or Script()) as gateway,
        Client(gateway.address) as client,
    ):
        session = await client.create("a red circle", num_blocks=num_blocks)
        async with client.connect(session) as stream:
            return await push(stream, target, **options)  # type: ignore[arg-type]


@needs_ffmpeg
@pytest.mark.parametrize(
    ("form", "at_sender", "ending"),
    [
        ("rtmp://127.0.0.1:{port}/live/key", "", "flv"),
        ("srt://127.0.0.1:{port}", "?mode=listener", "ts"),
    ],
)
async def test_every_picture_arrives_though_the_stream_is_lost(
    form: str, at_sender: str, ending: str, tmp_path: Path
) -> None:
    url, file = form.format(port=free_port()), tmp_path / f"out.{ending}"
    with listening(url + at_sender, file):
        pushed = await pushed_to(Target(url), Script(lose_before=[3]))
    assert pushed.num_segments == NUM_BLOCKS
    assert pushed.num_reconnects == 0
    assert pushed.ended is not None
    left_out = 4 if ending == "ts" else 0  # what is still on its way when SRT hangs up is lost
    assert NUM_PICTURES - left_out <= num_pictures(file) <= NUM_PICTURES


@needs_ffmpeg
async def test_a_receiver_that_is_lost_is_sought_again_with_the_same_segment(tmp_path: Path) -> None:
    url = f"rtmp://127.0.0.1:{free_port()}/live/key"
    told: list[str] = []
    is_gone = asyncio.Event()
    with listening(url, tmp_path / "first.flv") as first:

        def lose(event: Event, pushed: Pushed) -> None:
            if pushed.num_segments == 2 and first.poll() is None:
                first.kill()
                first.wait()
                is_gone.set()

        sending = asyncio.create_task(
            pushed_to(Target(url), num_blocks=6, progress=lose, tell_lost=told.append)
        )
        await is_gone.wait()
    with listening(url, tmp_path / "second.flv"):
        pushed = await sending
    assert pushed.num_segments == 6
    assert pushed.num_reconnects >= 1
    assert "is lost" in told[0]
    assert "key" not in told[0]
    assert num_pictures(tmp_path / "second.flv") >= 2 * BLOCK_FRAMES


async def test_webrtc_is_published_with_a_token_and_taken_down_again() -> None:
    async with whip_endpoint(free_port()) as endpoint:
        await pushed_to(Target(endpoint.url, token="secret"))
        assert endpoint.tokens == ["Bearer secret"]
        assert endpoint.is_deleted
        assert set(endpoint.pictures) == {(SIDE, SIDE)}
        assert len(endpoint.pictures) >= NUM_PICTURES - 2  # the jitter buffer keeps the last


@needs_ffmpeg
async def test_the_command_fails_where_the_session_does(tmp_path: Path) -> None:
    url = f"rtmp://127.0.0.1:{free_port()}/live/very-secret"
    (tmp_path / "where.txt").write_text(url)
    failed = SessionEnd(reason=END_REASON_FAILED)
    with listening(url, tmp_path / "out.flv"):
        async with serving(Script(end_with=failed)) as gateway, Client(gateway.address) as client:
            session = await client.create("a red circle", num_blocks=2)
            options = "--url-file", "where.txt", "--controller", "--gateway", gateway.address
            done = await cascade("push", session.name, *options, cwd=tmp_path)
    assert done.status == 1
    assert "the session ended early (failed); sent 1.3 s to rtmp://127.0.0.1" in done.err
    assert "very-secret" not in done.err


async def test_what_refuses_is_told_without_secrets(tmp_path: Path) -> None:
    with pytest.raises(CannotPush, match=r"cannot send to rtmp://127\.0\.0\.1:.*refused") as refused:
        await pushed_to(Target(f"rtmp://127.0.0.1:{free_port()}/live/very-secret"))
    assert "very-secret" not in str(refused.value)
    async with whip_endpoint(free_port()) as endpoint:
        endpoint.refuses_with = 401
        with pytest.raises(CannotPush, match="401"):
            await pushed_to(Target(f"{endpoint.url}?key=very-secret"))


async def test_a_receiver_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "CONNECT_DEADLINE_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/key"
        with pytest.raises(CannotPush, match="it has taken nothing for 2 s"):
            await pushed_to(Target(url))


@pytest.mark.parametrize(
    ("url", "token", "said"),
    [
        ("ftp://host/x", "", "rtmp://, rtmps://, srt://, http:// or https://"),
        ("rtmp:///live", "", "names no host"),
        ("rtmp://host/live", "token", "WHIP"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, token: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Target(url, token)


def test_no_form_of_a_target_shows_a_secret() -> None:
    target = Target("rtmp://user:word@host:1935/live/stream-key?pass=phrase", "")
    assert target.shown == "rtmp://host:1935"
    shown = repr(target) + target.hide_in(
        "error: 'rtmp://user:word@host:1935/live/stream-key?pass=phrase' at stream-key"
    )
    assert not any(secret in shown for secret in ("word", "stream-key", "phrase"))
