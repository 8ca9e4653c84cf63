"""What docs/clients.md and the READMEs show works as printed: the SDK, JSON with curl, the contract alone."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cascade.v1.common_pb2 import ErrorReason
from tests.paths import ROOT
from tests.services.support.gateway_support import STATES, Town, town
from tests.services.support.media_support import decode
from tests.services.support.video_support import FilmDecoder, probed, run

GUIDE = (ROOT / "docs/clients.md").read_text()
RUN_S = 60
HLS = "$GATEWAY/v1/$SESSION/hls/index.m3u8?resume_token=$TOKEN"


def snippets(language: str, text: str = GUIDE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@asynccontextmanager
async def open_town() -> AsyncIterator[Town]:
    """As `cascade up`: no keys."""
    async with town(decoders=[FilmDecoder()], http={}) as place:
        yield place


async def script(place: Town, folder: Path, *lines: str) -> str:
    """What bash says to them, with the town's address instead of the guide's."""
    text = "\n".join(["set -euo pipefail", *lines]).replace("http://localhost:8080", place.url)
    arguments = {"cwd": folder, "capture_output": True, "text": True, "timeout": RUN_S, "check": False}
    done = await asyncio.to_thread(subprocess.run, ["bash", "-c", text], **arguments)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


async def program(example: str, folder: Path) -> str:
    """What an example in Python prints, with a town in place of `cascade up`."""
    async with open_town() as place:
        code = example.replace("localhost:50051", f"127.0.0.1:{place.server.port}")
        arguments = {"cwd": folder, "capture_output": True, "text": True, "timeout": RUN_S, "check": False}
        said = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], **arguments)
    assert said.returncode == 0, said.stderr
    return str(said.stdout)


@pytest.mark.parametrize(
    ("file", "number", "num_blocks"),
    [("cascade_client/README.md", 0, 12), ("docs/clients.md", 1, 10)],
)
async def test_what_the_others_store_plays(tmp_path: Path, file: str, number: int, num_blocks: int) -> None:
    await program(snippets("python", (ROOT / file).read_text())[number], tmp_path)
    assert len(decode((tmp_path / "video.mp4").read_bytes())) == 12 * num_blocks - 3


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="needs ffprobe")
async def test_the_sdk(tmp_path: Path) -> None:
    example, *_ = snippets("python")
    *receipts, last = (await program(example, tmp_path)).splitlines()
    assert {line.partition(":")[0] for line in receipts} == {"the timeline", "my-switch"}
    assert last == "117 pictures, 7.31 s, COMPLETE"
    assert int((await probed(tmp_path / "video.mp4"))["nb_read_frames"]) == 117


async def test_a_player_that_says_what_it_has(tmp_path: Path) -> None:
    *_, example = snippets("python")
    assert await program(example, tmp_path) == "5 segments, 3.56 s\n"


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
async def test_json_with_curl(tmp_path: Path) -> None:
    _, block, _ = snippets("sh")
    failing = block.replace("curl ", "curl --silent --fail-with-body --write-out '\\n' ")
    async with open_town() as place:
        said = await script(place, tmp_path, failing)
        session = json.loads((tmp_path / "made.json").read_text())["session"]["name"]
        assert STATES[(await place.anybody.get(session)).state] == "ENDED"
    answers = [json.loads(line) for line in said.splitlines() if line]
    assert [next(iter(answer)) for answer in answers] == [
        *("models", "sessions", "session", "receipt", "session", "session", "resumeToken", "session")
    ]
    assert answers[1]["sessions"][0]["name"] == session


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
@pytest.mark.skipif(not shutil.which("ffprobe"), reason="needs ffprobe")
async def test_hls_and_mp4(tmp_path: Path) -> None:
    *_, block = snippets("sh")
    _controller, _name, ask, *players, download = block.splitlines()
    assert [player.split('"')[1] for player in players] == [HLS] * 2
    async with open_town() as place:
        name = await place.anybody.name(num_blocks=6)
        setting = [f"GATEWAY={place.url}", f"SESSION={name}"]
        token = (await script(place, tmp_path, *setting, ask, "echo $TOKEN")).strip()
        async with place.anybody.attached(name) as stream:
            await stream.until_over()
        url = (await script(place, tmp_path, *setting, f"TOKEN={token}", download, f'echo "{HLS}"')).strip()
        pictures = [int((await probed(source))["nb_read_frames"]) for source in (tmp_path / "video.mp4", url)]
    assert pictures == [6 * 12 - 3] * 2


async def test_the_released_contract_needs_no_sources(tmp_path: Path) -> None:
    """Its imports are in it: protoc makes stubs in a folder that has nothing else."""
    released = ROOT / "proto/released.binpb"
    files = ("cascade/v1/session.proto", "cascade/v1/common.proto", "google/rpc/status.proto")
    await run(
        *(sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={released}"),
        *(f"--python_out={tmp_path}", *files),
    )
    assert len(list(await asyncio.to_thread(lambda: list(tmp_path.rglob("*_pb2.py"))))) == len(files)


def test_every_reason_has_its_row() -> None:
    """So that none is added without a thought for clients."""
    table = GUIDE.partition("\n## Errors\n")[2].partition("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    told = [reason for row in rows for reason in re.findall(r"`([A-Z_]{5,})`", row.split("|")[1])]
    known = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert sorted(told) == sorted(known)
