"""What the documents print is run: every `sh` block, in its order, in one shell, against a real `cascade up`.

The services are the real ones with the demo model; free ports stand in for those that the documents name.
What no test runs is listed with its reason in `tests/doc_blocks.py`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.doc_blocks import ELSEWHERE, RUN, TESTED, Block, blocks, commands, reason
from tests.paths import ROOT
from tests.services.support.media_support import decode
from tests.services.support.redis_support import DIE_WITH_US

PROGRAMS = ("curl", "jq", "ffplay")
LIMIT_S = 240
PRELUDE = f"""
set -euo pipefail
trap 'kill $(jobs -p) 2>&1 || true' EXIT
make() {{ command make --directory {ROOT} --dry-run --old-file .venv/.installed "$@"; }}
ffplay() {{ SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy command ffplay -loglevel error -autoexit -t 1 "$@"; }}
vlc() {{ ffplay "$@"; }}
curl() {{ command curl --fail-with-body --no-progress-meter "$@"; }}
"""
"""`make up` has been done. A player needs no screen and ends after a second; vlc is another."""


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CASCADE_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | changes


@contextmanager
def up(folder: Path) -> Iterator[dict[str, Any]]:
    """What `cascade up` says when it is ready."""
    command = [
        "cascade",
        "up",
        "--json",
        "--port",
        "0",
        "--http-port",
        "0",
        "--log-dir",
        str(folder / "logs"),
    ]
    process = subprocess.Popen(
        [*DIE_WITH_US, *command], cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        events = (json.loads(line) for line in process.stdout)
        yield next(event for event in events if event["event"] == "ready")
    finally:
        process.terminate()
        process.communicate(timeout=LIMIT_S)


@pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}")
def test_commands_work_in_the_order_of_the_documents(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    with up(tmp_path) as ready:
        lines = "\n".join(block for document in RUN for block in commands(document))
        (page,) = ready["http"]
        text = lines.replace("http://localhost:8080", page).replace("localhost:8080", page)
        said = subprocess.run(
            ["bash", "-c", PRELUDE + text.replace("localhost:50051", ready["gateway"][0])],
            cwd=tmp_path, env=environment(CASCADE_CLIENT_GATEWAY=ready["gateway"][0]),
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    assert "cascade up" in said.stdout, "make up"
    assert len(decode((tmp_path / "video.mp4").read_bytes())) > 0, "the last that stores it is the download"


def test_every_block_is_run_or_has_a_reason() -> None:
    found = list(blocks())
    assert [block for block in found if not reason(block)] == []
    assert all((ROOT / test).is_file() for test in TESTED.values())
    assert {(block.document, block.language) for block in found} >= set(TESTED)
    stale = [
        (document, start) for document, starts in ELSEWHERE.items() for start in starts
        if not any(begins(block, document, start) for block in found)
    ]  # fmt: skip
    assert stale == []


def begins(block: Block, document: str, start: str) -> bool:
    return block.document == document and not block.language and block.text.lstrip().startswith(start)
