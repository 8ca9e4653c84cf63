"""`python -m release.distributions`: wheel and sdist of what is published, into dist/.

Each distribution is a table of `pyproject.toml`, such as `[tool.cascade-client]`. Its packages are copied
to `build/`, with a `pyproject.toml` made of the checkout's own lists, and built there. A wheel is built once
more from the sdist: it has to be the same.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from images.requirements import of_extra

TREE = Path(__file__).resolve().parent.parent
NAMES = ("cascade-client", "cascade-video")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "README.md")
CLASSIFIERS = [
    "Development Status :: 4 - Beta",
    "Intended Audience :: Developers",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Topic :: Multimedia :: Video",
    "Typing :: Typed",
]
DEADLINE_S = 300
EPOCH = "315532800"
"""1980-01-01, the oldest time that a wheel can hold: two builds of the same sources are the same."""


class BuildFailed(Exception):
    """What is wrong with a distribution."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m release.distributions", description=__doc__)
    parser.add_argument("--out", type=Path, default=TREE / "dist", help="default: dist")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        for file in make(name, TREE / "build" / name, options.out):
            print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB")
    return 0


def make(name: str, stage: Path, out: Path) -> list[Path]:
    """Wheel and sdist in `out`. Raises BuildFailed."""
    project = read_project()
    put(name, project, stage)
    with tempfile.TemporaryDirectory() as folder:
        first, again = Path(folder, "first"), Path(folder, "again")
        build("--sdist", "--wheel", "--outdir", first, stage)
        (wheel,), (sdist,) = first.glob("*.whl"), first.glob("*.tar.gz")
        check_wheel(wheel, project["tool"][name]["packages"])
        run("twine", "check", "--strict", wheel, sdist)
        shutil.unpack_archive(sdist, again, filter="data")
        (source,) = again.iterdir()
        build("--wheel", "--outdir", again, source)
        if contents(again / wheel.name) != contents(wheel):
            raise BuildFailed(f"{sdist.name} makes another {wheel.name}")
        return [Path(shutil.copy(file, out)) for file in (wheel, sdist)]


def read_project() -> dict[str, Any]:
    return tomllib.loads((TREE / "pyproject.toml").read_text())


def put(name: str, project: dict[str, Any], stage: Path) -> None:
    """The sources of one distribution into an empty folder."""
    shutil.rmtree(stage, ignore_errors=True)
    own = project["tool"][name]
    for package in own["packages"]:
        shutil.copytree(TREE / package, stage / package, ignore=LEFT_OUT)
    shutil.copy2(TREE / own["readme"], stage / "README.md")
    shutil.copy2(TREE / "LICENSE", stage)
    (stage / "pyproject.toml").write_text("\n".join(lines(tables(name, project))))


def tables(name: str, project: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of the distribution's `pyproject.toml`, by their names."""
    shared, own, data = (
        project["project"],
        project["tool"][name],
        project["tool"]["setuptools"]["package-data"],
    )
    needs = sorted({line for extra in own["extras"] for line in of_extra(shared, extra)})
    return {
        "build-system": project["build-system"],
        "project": {
            "name": name,
            "version": shared["version"],
            "description": own["description"],
            "readme": "README.md",
            "license": shared["license"],
            "license-files": shared["license-files"],
            "requires-python": shared["requires-python"],
            "classifiers": CLASSIFIERS,
            "dependencies": needs,
        },
        "project.optional-dependencies": {
            extra: sorted(set(of_extra(shared, extra))) for extra in own["optional"]
        },
        "project.scripts": {script: shared["scripts"][script] for script in own["scripts"]},
        **({"project.urls": shared["urls"]} if "urls" in shared else {}),
        "tool.setuptools.packages.find": {
            "include": [pattern for package in own["packages"] for pattern in (package, f"{package}.*")]
        },
        "tool.setuptools.package-data": {package: data[package] for package in own["packages"]},
    }


def lines(content: dict[str, dict[str, Any]]) -> Iterator[str]:
    """As TOML, whose strings and lists of strings JSON writes too."""
    for table, values in content.items():
        yield f"[{table}]"
        yield from (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


def check_wheel(wheel: Path, packages: list[str]) -> None:
    """Nothing else may land in anybody's site-packages."""
    tops = {name.split("/")[0] for name in contents(wheel)}
    if strange := {top for top in tops if not top.endswith(".dist-info")} ^ set(packages):
        raise BuildFailed(f"{wheel.name}: has, or lacks, {', '.join(sorted(strange))}")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def build(*arguments: str | Path) -> None:
    """With this environment's setuptools: pinned, and no network."""
    run("build", "--no-isolation", *arguments)


def run(module: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": EPOCH}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    if done.returncode:
        raise BuildFailed(done.stdout + done.stderr)


if __name__ == "__main__":
    sys.exit(main())
