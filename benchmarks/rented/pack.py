"""Collects what a machine with torch and no network may lack: wheels, into a folder that is carried there.

python -m benchmarks.rented.pack [--python 3.11 3.12 3.13] [--with numpy] [--to FOLDER]
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rented.packages import name_of, requirements
from benchmarks.rented.places import PACK, ROOT

PYTHONS = ("3.11", "3.12", "3.13")
GLIBCS = ("2_28", "2_27", "2_24", "2_17", "2_12", "2_5")
PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_{glibc}_x86_64" for glibc in GLIBCS))
LARGE = ("numpy",)
"""There where torch is, as a rule."""
MAX_MB = 60.0
DEADLINE_S = 600.0


class CannotPack(Exception):
    """Why there is no pack, in a sentence."""


def pip(*words: str) -> str:
    command = (sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check")
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode:
        raise CannotPack(done.stderr.strip() or f"pip ended with {done.returncode}")
    return done.stdout


def target(python: str) -> list[str]:
    """Of which machine pip is to think."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    return ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python, *platforms]


def wanted(python: str, added: Sequence[str]) -> list[str]:
    """`name==version` of all that the plan needs on that Python, without torch and what is large."""
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    report = pip(
        "install", "--dry-run", "--ignore-installed", "--report", "-", "--target", str(PACK), *target(python),
        *constraints, *requirements(),
    )  # fmt: skip
    found = [each["metadata"] for each in json.loads(report)["install"]]
    left_out = {*LARGE} - {*added}
    return [f"{each['name']}=={each['version']}" for each in found if name_of(each["name"]) not in left_out]


def collect(folder: Path, pythons: Sequence[str], added: Sequence[str]) -> float:
    """Fills the folder anew; the megabytes in it. Raises CannotPack."""
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in folder.glob("*.whl"):
        wheel.unlink()
    pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), "pip")
    for python in pythons:
        pip("download", "--no-deps", "--dest", str(folder), *target(python), *wanted(python, added))
    return sum(wheel.stat().st_size for wheel in folder.glob("*.whl")) / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rented.pack", description=__doc__)
    parser.add_argument(
        "--python", nargs="+", default=PYTHONS, metavar="VERSION", help="of the rented machine"
    )
    parser.add_argument(
        "--with", nargs="+", default=(), choices=LARGE, dest="added", help="what is left out otherwise"
    )
    parser.add_argument("--to", type=Path, default=PACK, metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        megabytes = collect(options.to, options.python, options.added)
    except CannotPack as error:
        sys.exit(f"gpu-pack: {error}")
    print(f"{options.to}: {megabytes:.0f} MB for Python {', '.join(options.python)}")
    if megabytes > MAX_MB:
        sys.exit(f"gpu-pack: more than {MAX_MB:g} MB; name that machine's Python alone: PYTHONS=3.12")
    return 0


if __name__ == "__main__":
    sys.exit(main())
