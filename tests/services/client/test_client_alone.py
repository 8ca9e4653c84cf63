"""The command where only the client is installed, as from a package index."""

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

WAIT_S = 60.0
NEEDED = ("grpc", "google", "shtab", "tqdm", "typing_extensions.py")
OWN = ("cascade", "cascade_client")


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A folder with what `pip install cascade-client` brings, and nothing else."""
    (found,) = [Path(each) for each in site.getsitepackages() if (Path(each) / "grpc").exists()]
    for place, names in ((found, NEEDED), (ROOT, OWN)):
        for name in names:
            (tmp_path / "packages" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "packages" / name).symlink_to(place / name)
    return tmp_path


def cascade(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "cascade_client", *arguments)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """-S: without this environment's packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CASCADE_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-S", "-P", *arguments],
        cwd=folder, env=kept | {"PYTHONPATH": str(folder / "packages")}, capture_output=True, text=True,
        timeout=WAIT_S,
    )  # fmt: skip


def test_up_says_in_one_sentence_where_services_come_from(alone: Path) -> None:
    done = cascade(alone, "up")
    ways = "type `make up` in a checkout of Cascade, or use its images and chart"
    assert done.stderr == f"cascade up: only the client is installed here: {ways}\n"
    assert done.returncode == 1
    assert not (alone / "out").exists(), "nothing is left behind"


PICTURES = """
from cascade_client import Client, MissingExtra
try:
    Client("localhost:1").connect("s1").frames()
except MissingExtra as error:
    print(error)
"""


def test_what_needs_an_extra_names_it(alone: Path) -> None:
    done = python(alone, "-c", PICTURES)
    assert done.stdout == (
        "frames() needs av and numpy; install them with: pip install 'cascade-client[frames]'\n"
    ), done.stderr


def test_doctor_does_not_ask_for_what_a_client_does_not_need(alone: Path) -> None:
    done = cascade(alone, "doctor", "--gateway", "127.0.0.1:1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok    client packages: installed\n" in done.stdout
    assert "ok    services: not installed: this is the client alone\n" in done.stdout
    assert not [word for word in ("stage packages", "torch", "cascade up") if word in done.stdout]
