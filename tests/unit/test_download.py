"""`cascade-engine download` with the hub's own client, against a hub on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cascade_core.config import find_card
from cascade_core.weights.locate import missing_files
from tests.unit.fake_hub import FakeHub, serving

DEADLINE_S = 120
CARD = """\
name = "tiny"
title = "tiny"
licence = "Apache-2.0"
commercial_use = true
source = "this test"
[transformer]
dim = 24
ffn_dim = 32
num_heads = 2
num_layers = 2
[sampling]
steps = [1000, 500]
[video]
width = 32
height = 32
[files.transformer]
repo = "owner/name"
path = "models/base.pt"
[files.lora]
repo = "some/style"
path = "adapter_model.safetensors"
[files.vae]
repo = "base/wan"
path = "vae"
[files.text_encoder]
repo = "base/wan"
path = "text_encoder"
[files.tokenizer]
repo = "base/wan"
path = "tokenizer"
"""
WEIGHTS = bytes(range(256)) * 2**17
"""32 MiB: the hub's client keeps what has come in steps of 10 MB."""
REPOSITORIES = {
    "owner/name": {"models/base.pt": WEIGHTS, "models/other.pt": b"not asked for"},
    "some/style": {
        "adapter_model.safetensors": b"lora",
        "adapter_config.json": b"{}",
        "README.md": b"not asked for",
    },
    "base/wan": {
        "vae/config.json": b"{}",
        "vae/a.safetensors": b"a" * 5000,
        "text_encoder/config.json": b"{}",
        "tokenizer/spiece.model": b"model",
        "tokenizer/tokenizer.json": b"{}",
        "README.md": b"not asked for",
    },
}


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(CARD)
    return path


def run(card: Path, folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / ".cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-m", "cascade_core.commands.cli", "download", "--model", card, "--to", folder]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)


def test_what_is_there_stays_and_the_rest_is_fetched(card: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    with serving(FakeHub(REPOSITORIES)) as hub:
        first = run(card, folder, hub.url)
        assert first.returncode == 0, first.stderr
        assert "5 fetched" in first.stderr
        assert (folder / "name/models/base.pt").read_bytes() == WEIGHTS
        assert missing_files(find_card(str(card)), str(folder)) == []
        assert not (folder / "name/models/other.pt").exists()
        assert {file.name for file in (folder / "style").glob("*.*")} == {
            ".cache", ".complete", "adapter_config.json", "adapter_model.safetensors",
        }  # fmt: skip
        (folder / "wan/tokenizer/tokenizer.json").unlink()
        (folder / "wan/.complete/tokenizer").unlink()
        hub.asked.clear()
        assert "1 fetched" in run(card, folder, hub.url).stderr
        assert [file for file, _ in hub.asked] == ["tokenizer/tokenizer.json"]
    gone = run(card, folder, hub.url)
    assert (gone.returncode, "0 fetched" in gone.stderr) == (0, True), "nothing is asked where all is there"


def test_a_line_that_breaks_is_an_error_and_the_next_run_goes_on(card: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    with serving(FakeHub(REPOSITORIES)) as hub:
        hub.breaks_once = {"models/base.pt"}
        broken = run(card, folder, hub.url)
        if broken.returncode != 0:  # the hub's client tries again by itself, or does not
            assert "hub repository owner/name" in broken.stderr
            assert run(card, folder, hub.url).returncode == 0
        assert (folder / "name/models/base.pt").read_bytes() == WEIGHTS
        ranges = [wanted for file, wanted in hub.asked if file == "models/base.pt"]
        assert int(ranges[-1].removeprefix("bytes=").removesuffix("-")) > 0, "not all of it again"


def test_what_the_hub_does_not_have_is_named(card: Path, tmp_path: Path) -> None:
    incomplete = {**REPOSITORIES, "owner/name": {}}
    with serving(FakeHub(incomplete)) as hub:
        failed = run(card, tmp_path / "weights", hub.url)
    assert failed.returncode == 2
    assert "hub repository owner/name: " in failed.stderr
    assert "Traceback" not in failed.stderr
