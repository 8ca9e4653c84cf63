# ruff: noqa: ASYNC240 - small files
"""Where the commands write a video: never over another, never into what is no file."""

import asyncio
import json
import os
import stat
from pathlib import Path

from tests.services.support.command_support import WAIT_S, cascade, command, environment
from tests.services.support.fake_gateway import BLOCK_FRAMES, SEED, Script, serving
from tests.services.support.media_support import decode

SHORT = ("generate", "a red zorp", "--blocks", 2)


async def test_a_video_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_text("mine")
    async with serving() as gateway:
        at = ("--gateway", gateway.address)
        refused = await cascade(*SHORT, "--out", "video.mp4", *at, cwd=tmp_path)
        another = await cascade(*SHORT, *at, cwd=tmp_path)
        third = await cascade(*SHORT, *at, cwd=tmp_path)
        assert (tmp_path / "video.mp4").read_text() == "mine"
        replaced = await cascade(*SHORT, "--out", "video.mp4", "--overwrite", *at, cwd=tmp_path)
        watched = await cascade("watch", "s1", "--out", "video.mp4", *at, cwd=tmp_path)
    told = "--out video.mp4: it exists; choose another name, or add --overwrite\n"
    assert (refused.status, refused.err) == (1, f"cascade generate: {told}")
    assert (watched.status, watched.err) == (1, f"cascade watch: {told}")
    assert "to video-2.mp4" in another.out
    assert "to video-3.mp4" in third.out
    assert replaced.status == 0, replaced.err
    assert len(decode((tmp_path / "video.mp4").read_bytes())) == 2 * BLOCK_FRAMES - 3


async def test_a_video_to_standard_output_and_what_is_told_beside_it(tmp_path: Path) -> None:
    async with serving() as gateway:
        process = await asyncio.create_subprocess_exec(
            *command(*SHORT, "--out", "-", "--gateway", gateway.address), cwd=tmp_path, env=environment(),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        video, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 0, err
    assert len(decode(video)) == 2 * BLOCK_FRAMES - 3
    assert f"(21 pictures) to standard output (seed {SEED})" in err.decode()
    assert "prompt: unknown words: zorp" in err.decode()
    assert list(tmp_path.iterdir()) == []


async def test_devices_stay_what_they_are(tmp_path: Path) -> None:
    async with serving() as gateway:
        at = ("--gateway", gateway.address)
        full = await cascade(*SHORT, "--out", "/dev/full", *at)
        nowhere = await cascade(*SHORT, "--out", "/dev/null", *at)
    why = "cannot write /dev/full: the disk is full; nothing was stored\n"
    assert (full.status, full.err.splitlines(keepends=True)[-1]) == (1, f"cascade generate: {why}")
    assert nowhere.status == 0, nowhere.err
    for name in ("/dev/full", "/dev/null"):
        assert stat.S_ISCHR(os.stat(name).st_mode)
    assert not os.path.lexists("/dev/full.partial")


async def test_without_a_terminal_lines_tell_how_far_it_is(tmp_path: Path) -> None:
    """The clock of the command is made to run faster."""
    quick = (
        "import sys\nfrom cascade_client.commands import progress\nprogress.LINE_EVERY_S = 0.1\n"
        "from cascade_client.cli import main\nsys.exit(main())"
    )
    async with serving(Script(pace_s=0.1)) as gateway:
        making = ("generate", "x", "--seconds", "3", "--gateway", gateway.address, "--json")
        process = await asyncio.create_subprocess_exec(
            command()[0], "-c", quick, *making, cwd=tmp_path, env=environment(),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert json.loads(out)["seed"] == SEED
    assert any(line.split(", ")[0].endswith("/3.0 s") for line in err.decode().splitlines()), err.decode()
