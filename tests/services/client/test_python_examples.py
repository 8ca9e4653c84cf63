"""Each program of examples/python, as a process, against a gateway."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.paths import ROOT
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import WAIT_S, Town, town, until
from tests.services.support.media_support import decode
from tests.services.support.ports import free_port
from tests.services.support.video_support import FilmDecoder
from tests.terminal import Terminal

EXAMPLES = ROOT / "examples/python"


def environment(place: Town) -> dict[str, str]:
    gateway = {"CASCADE_CLIENT_GATEWAY": f"127.0.0.1:{place.server.port}"}
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | gateway


@asynccontextmanager
async def program(place: Town, folder: Path, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=folder, env=environment(place), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(2 * WAIT_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(place: Town, folder: Path, *command: str) -> list[str]:
    async with program(place, folder, *command) as process:
        text, _ = await process.communicate()
    assert process.returncode == 0, text.decode()
    return text.decode().splitlines()


def pictures(path: Path) -> int:
    return len(decode(path.read_bytes()))


async def test_hello(tmp_path: Path) -> None:
    async with town(decoders=[FilmDecoder()]) as place:
        first, last = await said(place, tmp_path, str(EXAMPLES / "hello.py"), "a blue square")
    assert re.fullmatch(r"Session\('sessions/s-\w+', state='\w+', model='\w+'\)", first)
    assert last == "hello.mp4: 93 pictures, 5.8 s"
    assert pictures(tmp_path / "hello.mp4") == 93


async def test_steer_from_a_keyboard(tmp_path: Path) -> None:
    """A real terminal, so a key counts by itself."""

    def play(variables: dict[str, str]) -> Terminal:
        command = [sys.executable, str(EXAMPLES / "steer.py")]
        with Terminal(command, 100, variables, tmp_path) as terminal:
            terminal.until("q ends it")
            terminal.press("b")
            terminal.until("a blue square bounces: accepted")
            terminal.until("on the picture from")
            terminal.press("q")
            assert terminal.finish() == 0, terminal.text()
            return terminal

    async with town(decoders=[FilmDecoder()]) as place:
        terminal = await asyncio.to_thread(play, environment(place))
    assert "steered.mp4: " in terminal.text()
    assert pictures(tmp_path / "steered.mp4") >= 9


async def test_record_waits_where_there_is_no_room(tmp_path: Path) -> None:
    async with town(stages=[FakeStage(capacity=1)], decoders=[FilmDecoder()], queue_length=1) as place:
        there = [await place.anybody.name() for _ in range(2)]
        await until(lambda: place.registry.shared.admission.queue_length == 1)
        command = (str(EXAMPLES / "record.py"), "a red circle", "out.mp4")
        async with program(place, tmp_path, *command) as process:
            assert process.stdout
            assert "; again in " in (await process.stdout.readline()).decode()
            for name in there:
                await place.anybody.delete(name)
            text, _ = await process.communicate()
        refused = await said_wrong(place, tmp_path, str(EXAMPLES / "record.py"), " ", "out.mp4")
    assert text.decode().splitlines()[-1] == "out.mp4: 5.8 s"
    assert pictures(tmp_path / "out.mp4") == 93
    assert "prompts" in refused


async def said_wrong(place: Town, folder: Path, *command: str) -> str:
    async with program(place, folder, *command) as process:
        text, _ = await process.communicate()
    assert process.returncode == 1, text.decode()
    return text.decode()


async def test_frames(tmp_path: Path) -> None:
    async with town(decoders=[FilmDecoder()]) as place:
        lines = await said(place, tmp_path, str(EXAMPLES / "frames.py"))
    assert len(lines) == 6 * 12 - 3
    assert lines[0].startswith(" 0.000 s  colour 0.0")
    assert lines[-1].startswith(" 4.250 s  colour ")


async def test_relay(tmp_path: Path) -> None:
    """Plays to whoever asks, passes switches on, ends the session of a browser that leaves."""
    pytest.importorskip("fastapi")
    shutil.copy(EXAMPLES / "relay.py", tmp_path)
    port = free_port()
    command = ("-m", "uvicorn", "relay:app", "--port", str(port))
    async with (
        town(decoders=[FilmDecoder()]) as place,
        program(place, tmp_path, *command) as process,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as browser,
    ):
        assert process.stdout
        while b"running on" not in await process.stdout.readline():
            assert process.returncode is None
        assert "<video" in (await browser.get("/")).text
        film = await browser.get("/video", params={"prompt": "a red circle", "num_blocks": 3})
        assert film.headers["content-type"] == "video/mp4"
        assert len(decode(film.content)) == 3 * 12 - 3
        refused = await browser.get("/video", params={"prompt": " "})
        assert (refused.status_code, refused.json()["reason"]) == (400, "INVALID_FIELD")
        async with browser.stream("GET", "/video", params={"prompt": "a red circle"}) as playing:
            name = playing.headers["session"]
            changed = await browser.post(f"/{name}/prompt", params={"text": "a blue square"})
            assert changed.json()["state"] in ("ACCEPTED", "APPLIED")
            await anext(playing.aiter_bytes())
        await place.anybody.until_state(name, "ENDED")
