"""A checkout on a machine where only its dependencies are installed: processes of ours find the source."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.paths import ROOT

PYTHON = getattr(sys, "_base_executable", sys.executable)
"""Knows no virtual environment, so no editable install either."""
SITE = sysconfig.get_path("purelib")
DEADLINE_S = 120

RANK = """
import asyncio
from cascade_core.config import EngineConfig, make
from cascade_core.engine.engine import Engine

async def main():
    config = make(EngineConfig, {"model": "demo", "weights": "random", "device": "cpu", "num_ranks": 1})
    async with await Engine.start(config) as engine:
        print("ready", engine.status.ready)

asyncio.run(main())
"""
WORKER = """
import asyncio
from cascade_core.config import find_card
from services.decoder.messages import LoadDecoder
from services.decoder.process import WorkerProcess
from services.decoder.settings import DecoderSettings

async def main():
    settings = DecoderSettings(kind="taehv", weights="random", device="cpu")
    async with WorkerProcess(LoadDecoder(find_card("demo"), settings), 100) as process:
        print("ready", process.ready is not None)

asyncio.run(main())
"""
PROGRAMS = pytest.mark.parametrize("program", [RANK, WORKER], ids=["rank", "decoder's worker"])


def run(program: str, folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """In `folder`, from which Python imports first, then from `paths`, then what is installed here."""
    environment = {"PYTHONPATH": os.pathsep.join([*map(str, paths), SITE]), "PYTHONNOUSERSITE": "1"}
    return subprocess.run(
        [PYTHON, "-c", program], cwd=folder, env=os.environ | environment,
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The source, and nothing that would make it an installed package."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for package in ("cascade", "cascade_client", "cascade_core", "services"):
        (folder / package).symlink_to(ROOT / package)
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another version, installed."""
    for package in ("cascade_core", "services"):
        (tmp_path / "other" / package).mkdir(parents=True)
        (tmp_path / "other" / package / "__init__.py").write_text("raise SystemExit('the other version')")
    return tmp_path / "other"


@PROGRAMS
def test_the_source_is_that_of_who_started_it(program: str, tree: Path, other: Path) -> None:
    done = run(program, tree, other)
    assert done.stdout == "ready True\n", done.stderr
