"""What a machine that has torch lacks: found by pip, installed from the pack into a folder of its own."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.rented.places import ROOT

NEEDS = (
    "ftfy",
    "numpy",
    "psutil",
    "pydantic",
    "pyte",
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "pytest-xdist",
    "safetensors",
    "tqdm",
)
"""Beside torch, for tests/gpu and the benchmarks of one GPU; the versions stand in pyproject.toml."""
DEADLINE_S = 120.0


class CannotRun(Exception):
    """Why this machine cannot run the plan, in a sentence."""


def requirements() -> list[str]:
    """`NEEDS` with the versions that the project takes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = (need for extra in project["optional-dependencies"].values() for need in extra)
    found = {need: need for need in listed}
    return [next(need for need in found if name_of(need) == name) for name in NEEDS]


def name_of(requirement: str) -> str:
    """`pytest-xdist>=3.6` -> `pytest-xdist`."""
    end = next((at for at, letter in enumerate(requirement) if letter in "<>=!~[; "), len(requirement))
    return requirement[:end].lower()


def absent() -> list[str]:
    """What no version is installed of."""

    def is_there(name: str) -> bool:
        try:
            return bool(metadata.version(name))
        except metadata.PackageNotFoundError:
            return False

    return [name for name in NEEDS if not is_there(name)]


def install_missing(pack: Path, target: Path, log: Path) -> list[str]:
    """Names and versions of what was installed into `target`. Raises CannotRun."""
    if not pack.is_dir():
        if missing := absent():
            raise CannotRun(
                f"not installed here: {', '.join(missing)}; run `make gpu-pack` on a machine with a network, "
                f"and bring {pack.relative_to(ROOT)} along"
            )
        return []
    wanted = resolve(pack, log)
    if wanted:
        pip(pack, log, "install", "--quiet", "--no-deps", "--upgrade", "--target", str(target), *wanted)
    return wanted


def resolve(pack: Path, log: Path) -> list[str]:
    """`name==version` of what pip would take from the pack; what is here in a version that fits stays."""
    report = log.with_suffix(".json")
    pip(pack, log, "install", "--quiet", "--dry-run", "--report", str(report), *requirements())
    content = json.loads(report.read_text())
    return [f"{each['metadata']['name']}=={each['metadata']['version']}" for each in content["install"]]


def pip(pack: Path, log: Path, command: str, *arguments: str) -> None:
    """The pack's own pip, whose options are known; it looks nowhere but into the pack."""
    wheels = sorted(pack.glob("pip-*.whl"))
    if not wheels:
        raise CannotRun(f"{pack}: no pip in it; make it with `make gpu-pack`")
    words: Sequence[str] = (
        sys.executable, str(wheels[-1] / "pip"), command, "--no-index", "--find-links", str(pack),
        "--disable-pip-version-check", "--no-cache-dir", *arguments,
    )  # fmt: skip
    with log.open("a") as output:
        done = subprocess.run(
            words, stdout=output, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=False
        )
        output.write(done.stderr)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.startswith("ERROR:")), done.stderr)
        raise CannotRun(
            f"the pack does not fit Python {sys.version_info[0]}.{sys.version_info[1]} here "
            f"({said.removeprefix('ERROR: ').strip()}); see `make gpu-pack`, and {log}"
        )
