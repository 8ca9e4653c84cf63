"""The packages of `make gpu`: real pip, into a folder of its own, from wheels and no network."""

import ensurepip
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.rented import packages
from benchmarks.rented.pack import MAX_MB, collect, pip
from benchmarks.rented.packages import NEEDS, CannotRun, absent, install_missing, name_of, requirements
from tests.paths import ROOT

DEADLINE_S = 900


def write_wheel(folder: Path, name: str, version: str, needs: Sequence[str] = ()) -> None:
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {need}" for need in needs]
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", f"VERSION = {version!r}")
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """pip, and two packages of which one needs the other."""
    folder = tmp_path / "pack"
    folder.mkdir()
    (bundled,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    shutil.copy(bundled, folder)
    write_wheel(folder, "made-up", "2.1", ["made-up-too>=1", "torch"])
    write_wheel(folder, "made-up-too", "1.0")
    return folder


def test_what_is_missing_is_installed_and_what_is_there_stays(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "requirements", lambda: ["made-up>=2", "tqdm>=4"])
    target = tmp_path / "packages"
    assert sorted(install_missing(pack, target, tmp_path / "log")) == ["made-up-too==1.0", "made-up==2.1"]
    assert sorted(path.name for path in target.glob("*.py")) == ["made_up.py", "made_up_too.py"]
    assert not list(target.glob("tqdm*"))


def test_a_pack_that_does_not_fit_says_what_it_lacks(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "requirements", lambda: ["made-up>=3"])
    with pytest.raises(CannotRun, match=r"does not fit Python 3\.\d+ here \(.*made-up>=3.*\); see `make"):
        install_missing(pack, tmp_path / "packages", tmp_path / "log")
    assert not (tmp_path / "packages").exists()
    (pip_wheel,) = pack.glob("pip-*.whl")
    pip_wheel.unlink()
    with pytest.raises(CannotRun, match="no pip in it"):
        install_missing(pack, tmp_path / "packages", tmp_path / "log")


def test_without_a_pack_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = ROOT / "out" / "no-such-pack"
    assert absent() == []
    assert install_missing(none, tmp_path / "packages", tmp_path / "log") == []
    monkeypatch.setattr(packages, "NEEDS", ("tqdm", "made-up", "ftfy", "made-up-too"))
    with pytest.raises(CannotRun, match="not installed here: made-up, made-up-too; run `make gpu-pack` on"):
        install_missing(none, tmp_path / "packages", tmp_path / "log")


def test_versions_are_those_of_the_project() -> None:
    assert [name_of(need) for need in requirements()] == list(NEEDS)
    assert "pydantic>=2.9,<3" in requirements()
    assert name_of("Pytest_Xdist[x]>=3") == "pytest_xdist"


def bare_python(folder: Path) -> Path:
    """Has torch and what it needs, and numpy; no pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=DEADLINE_S)
    (site,) = folder.glob("lib/python*/site-packages")
    wanted, seen = ["torch", "numpy"], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        wanted += [name_of(need) for need in distribution.requires or () if ";" not in need]
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "bin")}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.timeout(2 * DEADLINE_S)
def test_a_bare_machine_runs_the_plan_from_the_pack(tmp_path: Path) -> None:
    """Without a virtual environment, from a copy of the checkout."""
    try:
        pip("download", "--no-deps", "--dest", str(tmp_path), "tqdm")
    except Exception:
        pytest.skip("no package index within reach")
    tree = tmp_path / "tree"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in tracked.splitlines():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert collect(tree / "out" / "gpu-pack", [version], []) < MAX_MB
    python = bare_python(tmp_path / "system")
    steps = ("tests", "gpu-1.3b", "gpu-engine", "gpu-decoders")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-m", "benchmarks.rented", "--device", "cpu", "--steps", *steps], cwd=tree,
        env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("pydantic==", "safetensors==", "pytest=="):
        assert name in done.stdout
    assert [line.split(":")[0] for line in done.stdout.splitlines() if ": done" in line] == list(steps)
    assert "| decoder | " in (tree / "out/gpu/report.md").read_text()
