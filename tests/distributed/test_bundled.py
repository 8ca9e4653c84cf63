"""A model that an installed package carries runs as it is, and says which words it does not know."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cascade_core.config import EngineConfig, load_card_file, make
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import PromptApplied
from cascade_core.request import SessionRequest
from tests.checkpoint import write_checkpoint, write_package
from tests.engine_support import WAIT_S, collect, write_card

PACKAGE = "package_with_weights"
DRAGON = "a red dragon moves left"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `sys.path` with the package in it."""
    folder = tmp_path_factory.mktemp("place")
    checkpoint = write_package(folder, PACKAGE)
    write_checkpoint(checkpoint, load_card_file(write_card(folder)))
    return folder


@pytest.fixture(scope="module")
def card(place: Path) -> Path:
    path = write_card(place)
    path.write_text(path.read_text().replace("\n[", f'bundled = "{PACKAGE}/checkpoint"\n\n[', 1))
    return path


@pytest.mark.usefixtures("nothing_left")
async def test_unknown_words_come_with_the_session_and_the_receipts(
    card: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(place)
    prompts = {0: DRAGON, 2: "a blue square", 3: "a Teapot moves left , teapot"}
    config = make(EngineConfig, {"model": str(card), "device": "cpu", "threads_per_rank": 1})
    async with await Engine.start(config) as engine, asyncio.timeout(WAIT_S):
        session = await engine.open(SessionRequest(prompts, num_blocks=5))
        events = await collect(session)
        again = await engine.open(SessionRequest({0: DRAGON}, num_blocks=1))
    assert session.unknown_words == {0: ("dragon",), 3: ("Teapot", ",", "teapot")}
    receipts = [event.unknown_words for event in events if isinstance(event, PromptApplied)]
    assert receipts == [(), ("Teapot", ",", "teapot")]
    assert again.unknown_words == {0: ("dragon",)}  # from the kept embedding


def test_generate_says_it_in_one_line(card: Path, place: Path, tmp_path: Path) -> None:
    latents, figures = tmp_path / "a.safetensors", tmp_path / "a.json"
    command = [
        sys.executable,
        "-m",
        "cascade_core.commands.cli",
        "generate",
        "--model",
        str(card),
        "--prompt",
        DRAGON,
    ]
    result = subprocess.run(
        [
            *command,
            "--prompt",
            DRAGON,
            "--switch",
            "2:a blue square",
            "--blocks",
            "4",
            "--latents",
            str(latents),
            "--json",
            str(figures),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(place)},
    )
    assert result.returncode == 0, result.stderr
    lines = result.stderr.replace("\r", "\n").splitlines()
    assert lines.count(f'prompt "{DRAGON}": the model does not know "dragon", which it ignores') == 1
    assert result.stderr.count("does not know") == 1
    assert "Random weights" not in result.stderr
    written = json.loads(figures.read_text())
    assert written["random_weights"] is False
    assert written["unknown_words"] == {DRAGON: ["dragon"]}
    assert latents.stat().st_size > 0
