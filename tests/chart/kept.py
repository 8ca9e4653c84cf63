"""What helm printed, kept on disk: no rendering is made twice, not even by two processes of a test run.

The key holds all that a rendering depends on: every byte of the chart, helm itself, arguments, values.
"""

import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.paths import ROOT

FOLDER = ROOT / ".pytest_cache" / "renderings"


@dataclass(frozen=True)
class Printed:
    """What a helm process left."""

    returncode: int
    stdout: str
    stderr: str


def kept(
    run: Callable[[], subprocess.CompletedProcess[str]],
    chart: Path,
    program: Path,
    arguments: Sequence[str],
    folder: Path = FOLDER,
) -> Printed:
    """What `run` prints, or printed before for the same chart, program and arguments."""
    before = digest(chart, program)
    path = folder / before / f"{hashlib.sha256(json.dumps(arguments).encode()).hexdigest()}.json"
    if (known := read(path)) is not None:
        return known
    forget_others(path.parent)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (known := read(path)) is not None:
            return known
        done = run()
        printed = Printed(done.returncode, done.stdout, done.stderr)
        if (
            done.returncode >= 0 and digest(chart, program) == before
        ):  # not killed, and nobody edits the chart
            write(path, printed)
        return printed


def digest(chart: Path, program: Path) -> str:
    """Of all files of the chart, and of the program as it lies on the disk."""
    found = hashlib.sha256(repr(identity(program)).encode())
    for path in sorted(chart.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            found.update(f"{path.relative_to(chart)} {len(content)}\n".encode() + content)
    return found.hexdigest()


@functools.cache
def identity(program: Path) -> tuple[str, int, int]:
    real = program.resolve()
    return str(real), real.stat().st_size, real.stat().st_mtime_ns


def read(path: Path) -> Printed | None:
    try:
        return Printed(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def write(path: Path, printed: Printed) -> None:
    """Whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(asdict(printed), file)
    os.replace(file.name, path)


def forget_others(mine: Path) -> None:
    """Renderings of a chart that has changed since."""
    if mine.is_dir():
        return
    mine.mkdir(parents=True, exist_ok=True)
    for each in mine.parent.iterdir():
        if each != mine:
            shutil.rmtree(each, ignore_errors=True)
