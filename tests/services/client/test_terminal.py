# ruff: noqa: ASYNC110, ASYNC240 - another process, small files
"""The command `cascade` in a terminal, narrow and wide: what a person sees of it."""

import asyncio
import re
from pathlib import Path

import pytest

from cascade.v1 import session_pb2
from cascade_client import Client, Stream
from tests.conftest import Open
from tests.services.support.command_support import command, environment, made_up_services
from tests.services.support.fake_gateway import (
    BLOCK_FRAMES,
    SEED,
    FakeStage,
    Script,
    serving,
    serving_peer,
)
from tests.services.support.media_support import decode
from tests.terminal import CTRL_C, Terminal

WIDTHS = (40, pytest.param(80, marks=pytest.mark.slow), 200)
PROMPT = "a red circle moves left on a white background, slowly at first and then faster"


async def finished(shown: Terminal) -> int:
    """Its exit status; meanwhile the gateway in this process works."""
    status = await asyncio.to_thread(shown.finish)
    assert "Traceback" not in shown.text(), shown.text()
    return status


@pytest.mark.parametrize("columns", WIDTHS)
async def test_help_says_how_to_use_it(terminal: Open, columns: int) -> None:
    for arguments in ((), ("generate",)):
        shown = terminal(*command(*arguments, "--help"), columns=columns, environment=environment())
        assert await finished(shown) == 0
        assert shown.lines[0].startswith(" ".join(("usage: cascade", *arguments)))


@pytest.mark.parametrize("columns", WIDTHS)
async def test_up_shows_where_to_go_and_ends_by_ctrl_c(terminal: Open, tmp_path: Path, columns: int) -> None:
    starting = command("up", "--port", 0, "--http-port", 0)
    shown = terminal(*starting, columns=columns, environment=made_up_services(tmp_path), folder=tmp_path)
    await asyncio.to_thread(shown.until, "cascade generate")
    shown.press(CTRL_C)
    assert await finished(shown) == 0, shown.text()
    assert shown.lines[0] == "starting 3 processes; logs in out/logs"
    for name in ("stage-0", "decoder-0", "gateway-0"):
        assert any(re.fullmatch(rf"{name} serves after [0-9.]+ s", line) for line in shown.lines), (
            shown.text()
        )
        assert any(re.fullmatch(rf"{name} +127[.0-9]+:\d+ +pid \d+", line) for line in shown.lines)
    gateway = re.search(r"gateway-0 +(127\.0\.0\.1:\d+)", shown.text())
    assert gateway
    assert f'  cascade generate "a red circle moves left" --gateway {gateway[1]}' in shown.lines
    assert any(re.fullmatch(r"The page: http://localhost:\d+", line) for line in shown.lines)
    assert shown.lines[-2:] == ["all stopped", ""]


async def test_ctrl_c_ends_up_before_it_is_ready(terminal: Open, tmp_path: Path) -> None:
    starting = command("up", "--port", 0, "--http-port", 0, "--model", "slow")
    shown = terminal(*starting, columns=40, environment=made_up_services(tmp_path), folder=tmp_path)
    await asyncio.to_thread(shown.until, "starting 3 processes")
    shown.press(CTRL_C)
    assert await finished(shown) == 0, shown.text()
    assert shown.lines[-2:] == ["all stopped", ""]


@pytest.mark.parametrize("columns", WIDTHS)
async def test_generate_draws_one_bar_and_whole_lines(terminal: Open, tmp_path: Path, columns: int) -> None:
    script = Script(num_queued=2, lose_before=[4], recover_before=[6], pace_s=0.01)
    async with serving(script) as gateway:
        making = ("generate", PROMPT, "--blocks", 8, "--out", "circle.mp4", "--gateway", gateway.address)
        shown = terminal(*command(*making), columns=columns, environment=environment(), folder=tmp_path)
        assert await finished(shown) == 0, shown.text()
    assert shown.bar().startswith("100%|")
    *notes, bar, saved, _ = shown.lines
    assert bar == shown.bar()
    length = f"{(8 * BLOCK_FRAMES - 3) / 16:.1f}"
    assert saved == f"saved {length} s (93 pictures) to circle.mp4 (seed {SEED})"
    starts = (
        "sessions/s1 is",
        "queue: place 2",
        "queue: place 1",
        "state: active",
        "reconnected",
        "recovery",
    )
    for note in notes:
        assert note.startswith(starts), f"{note!r} is not whole:\n{shown.text()}"
    assert len(notes) >= len(starts)


@pytest.mark.parametrize("has_models", [True, False])
@pytest.mark.parametrize("columns", WIDTHS)
async def test_a_video_ends_at_the_end_of_its_bar(
    terminal: Open, tmp_path: Path, columns: int, has_models: bool
) -> None:
    """3 s are no whole number of blocks, so it is a little longer."""
    async with serving(Script(has_models=has_models)) as gateway:
        making = ("generate", "a red zorp", "--seconds", 3, "--gateway", gateway.address)
        shown = terminal(*command(*making), columns=columns, environment=environment(), folder=tmp_path)
        assert await finished(shown) == 0, shown.text()
    assert shown.bar().startswith("100%|")
    assert "3.0/3.0 s" in shown.bar()
    assert "Warning" not in shown.text()
    assert "prompt: unknown words: zorp" in shown.lines


@pytest.mark.parametrize("columns", WIDTHS)
async def test_what_steers_a_session_answers_in_one_line(terminal: Open, columns: int) -> None:
    async with serving() as gateway, serving_peer(FakeStage()) as stage, Client(gateway.address) as client:
        await client.create(PROMPT)
        for arguments, told in (
            (("pause", "s1"), "sessions/s1 is paused"),
            (("resume", "s1"), "sessions/s1 is active"),
            (("switch", "s1", "a blue square"), "accepted ("),
            (("delete", "s1"), "sessions/s1 is ended"),
            (("delete", "s9"), "cascade delete: no session sessions/s9"),
        ):
            asking = command(*arguments, "--gateway", gateway.address)
            shown = terminal(*asking, columns=columns, environment=environment())
            assert await finished(shown) == ("s9" in arguments), shown.text()
            assert shown.lines[0].startswith(told)
            assert shown.lines[1:] == [""]
        shown = terminal(*command("drain", stage, "--wait"), columns=columns, environment=environment())
        assert await finished(shown) == 0, shown.text()
    assert shown.lines[-2] == "the stage is empty: safe to delete"


async def test_a_terminal_gets_no_video(terminal: Open) -> None:
    shown = terminal(*command("generate", "x", "--out", "-"), columns=40, environment=environment())
    assert await finished(shown) == 1
    assert "standard output is a terminal" in shown.text()


async def test_ctrl_c_ends_generate_and_its_session(terminal: Open, tmp_path: Path) -> None:
    out = tmp_path / "video.mp4"
    async with serving(Script(pace_s=0.05)) as gateway:
        making = ("generate", "a red circle", "--out", out, "--gateway", gateway.address)
        shown = terminal(*command(*making), columns=40, environment=environment())
        await asyncio.to_thread(shown.until, "fps=")
        shown.press(CTRL_C)
        assert await finished(shown) == 130, shown.text()
        session = gateway.sessions["sessions/s1"].message
    assert "stopped; " in shown.text()
    assert session.end.reason == session_pb2.END_REASON_DELETED
    assert len(decode(out.read_bytes())) >= BLOCK_FRAMES - 3


@pytest.mark.parametrize("columns", WIDTHS)
async def test_watch_tells_and_ends_by_ctrl_c(terminal: Open, tmp_path: Path, columns: int) -> None:
    async with serving(Script(pace_s=0.05)) as gateway, Client(gateway.address) as client:
        session = await client.create(PROMPT)
        async with client.connect(session) as stream:
            reading = asyncio.create_task(read(stream))
            watching = command("watch", "s1", "--gateway", gateway.address)
            shown = terminal(*watching, columns=columns, environment=environment(), folder=tmp_path)
            await asyncio.to_thread(shown.until, "Ctrl-C ends it")
            while not list(tmp_path.glob(".watched.mp4.*.part")):
                await asyncio.sleep(0.05)
            shown.press(CTRL_C)
            assert await finished(shown) == 130, shown.text()
            reading.cancel()
    assert shown.lines[0] == "watching sessions/s1; Ctrl-C ends it"
    assert "stopped" in shown.text()


async def read(stream: Stream) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("columns", WIDTHS)
async def test_sessions_are_a_line_each(terminal: Open, columns: int) -> None:
    async with serving() as gateway, Client(gateway.address) as client:
        for _ in range(2):
            await client.create(PROMPT)
        gateway.sessions["sessions/s2"].message.prompt = "a blue square"
        listing = command("sessions", "--gateway", gateway.address)
        shown = terminal(*listing, columns=columns, environment=environment())
        assert await finished(shown) == 0
    assert [line.split()[0] for line in shown.lines if line] == ["SESSION", "sessions/s2", "sessions/s1"]
    assert columns < 80 or "a blue square" in shown.text()


async def test_doctor_finds_in_whole_lines(terminal: Open) -> None:
    async with serving() as gateway:
        asking = command("doctor", "--gateway", gateway.address)
        shown = terminal(*asking, columns=40, environment=environment())
        assert await finished(shown) == 0, shown.text()
    assert f"ok    gateway {gateway.address}" in shown.text()
    starts = ("ok    ", "warn  ", "      -> ")
    assert all(line.startswith(starts) for line in shown.lines if line), shown.text()


async def test_ctrl_c_while_nobody_answers(terminal: Open) -> None:
    asked = asyncio.Event()

    async def fall_silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()

    async with await asyncio.start_server(fall_silent, "127.0.0.1", 0) as silent:
        address = "{}:{}".format(*silent.sockets[0].getsockname())
        shown = terminal(*command("sessions", "--gateway", address), columns=40, environment=environment())
        await asyncio.wait_for(asked.wait(), 60)
        shown.press(CTRL_C)
        assert await finished(shown) == 130, shown.text()
