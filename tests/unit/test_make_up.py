"""`make up` for the first time: what a person sees while it installs."""

import os
import subprocess
from pathlib import Path

from tests.paths import ROOT

PYTHON = """\
#!/bin/sh
if [ "$2" = venv ]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/cascade"
else
  echo "called: $(basename "$0") $*"
fi
"""


def test_it_says_what_it_does_and_pip_shows_how_far_it_is(tmp_path: Path) -> None:
    """Only with `--quiet` does pip say nothing for minutes."""
    python = tmp_path / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    venv = tmp_path / "venv"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "up", f"PYTHON={python}", f"VENV={venv}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith(f"Installing into {venv}: ")
    called = [line for line in done.stdout.splitlines() if line.startswith("called: ")]
    (packages,) = [line for line in called if "pip install" in line and "--editable" in line]
    assert "--quiet" not in packages
    assert called[-1] == "called: cascade up"
