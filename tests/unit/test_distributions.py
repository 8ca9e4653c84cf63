"""What is published: what is in it, what it needs, and that it runs where nothing else of this project is."""

import ast
import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from images.requirements import requirements
from release.distributions import NAMES, BuildFailed, check_wheel, make, put, read_project
from tests.paths import ROOT

DEADLINE_S = 600
HEAVY = {"torch", "numpy", "transformers", "diffusers", "av"}


@pytest.fixture(scope="module", params=NAMES)
def staged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = tmp_path_factory.mktemp("stage") / request.param
    put(request.param, read_project(), stage)
    return stage


def imported(folder: Path) -> Iterator[str]:
    """Top-level names of everything that is imported below it, wherever in a file."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (name.name.partition(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module
                yield node.module.partition(".")[0]


def test_what_is_staged_is_the_packages_and_what_they_say_of_themselves(staged: Path) -> None:
    table = tomllib.loads((staged / "pyproject.toml").read_text())
    packages = read_project()["tool"][staged.name]["packages"]
    assert {path.name for path in staged.iterdir()} == {*packages, "LICENSE", "README.md", "pyproject.toml"}
    assert table["project"]["version"] == read_project()["project"]["version"]
    assert not [need for need in table["project"]["dependencies"] if "cascade" in need], "extras are followed"
    assert not list(staged.rglob("__pycache__"))


def test_data_files_travel_with_their_packages(staged: Path) -> None:
    """All that a package has beside its code; what is made meanwhile is left out already."""
    data = tomllib.loads((staged / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, patterns in data.items():
        folder = staged / package
        told = {path for pattern in patterns for path in folder.glob(pattern)}
        files = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyi")}
        assert files <= told


def test_it_needs_what_it_imports_and_no_more_than_the_checkout(staged: Path) -> None:
    project = tomllib.loads((staged / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    needs = [*project["dependencies"], *(need for extra in extras for need in extra)]
    named = {need.split(">")[0].split("=")[0].lower() for need in needs}
    own = {path.name for path in staged.iterdir() if path.is_dir()}
    homes = packages_distributions()
    optional = {"flash_attn_interface", "sageattention", "services"}
    third = set(imported(staged)) - set(sys.stdlib_module_names) - own - optional
    missing = {name for name in third if not {home.lower() for home in homes[name]} & named}
    assert missing == set()
    assert set(project["dependencies"]) <= set(
        requirements(read_project()["project"], ["client", "stage", "decoder"])
    )
    if staged.name == "cascade-client":
        assert not [need for need in project["dependencies"] if need.split(">")[0] in HEAVY]
        assert list(project["optional-dependencies"]) == ["frames", "push"]


def test_an_editable_install_is_a_path_that_type_checkers_follow(tmp_path: Path) -> None:
    """And no import hook, which they do not run."""
    project = tmp_path / "project"
    for package in ("cascade", "cascade_client"):
        shutil.copytree(ROOT / package, project / package)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    code = f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, check=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(path).decode().strip() == str(project)


def test_top_level_names_of_others_are_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("cascade_core/__init__.py", "services/__init__.py", "x-1.dist-info/METADATA"):
            archive.writestr(name, "")
    with pytest.raises(BuildFailed, match="has, or lacks, services"):
        check_wheel(wheel, ["cascade_core"])


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dist")
    return {name: make(name, folder / "build" / name, folder)[0] for name in NAMES}


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Fresh, away from the checkout."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True, timeout=DEADLINE_S)
    return tmp_path / "env"


def run(environment: Path, *command: str | Path) -> str:
    program, *arguments = command
    done = subprocess.run(
        [environment / "bin" / program, *arguments],
        cwd=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(DEADLINE_S)
def test_the_client_runs_with_what_pip_brings(environment: Path, wheels: dict[str, Path]) -> None:
    index = ["pip", "download", "--quiet", "--no-deps", "--dest", environment, "tqdm"]
    if subprocess.run([environment / "bin/python", "-m", *index], check=False, timeout=DEADLINE_S).returncode:
        pytest.skip("no package index within reach")
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(environment, "pip", "install", "--quiet", *constraints, wheels["cascade-client"])
    assert "generate" in run(environment, "cascade", "--help")
    assert "cascade-client" not in run(environment, "cascade", "doctor"), "all of it is there"
    listed = "import cascade_client.cli, sys; print(*sys.modules)"
    assert not set(run(environment, "python", "-c", listed).split()) & HEAVY


@pytest.mark.slow
@pytest.mark.timeout(DEADLINE_S)
def test_the_engine_finds_its_demo_model(environment: Path, wheels: dict[str, Path]) -> None:
    """With the third-party packages that are here, and none of the checkout's."""
    (site,) = environment.glob("lib/python3.*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    run(environment, "pip", "install", "--quiet", "--no-deps", wheels["cascade-video"])
    where = "import cascade_core, importlib.util as u; print(cascade_core.__file__, u.find_spec('services'))"
    assert run(environment, "python", "-c", where) == f"{site}/cascade_core/__init__.py None\n"
    wanted = ["--prompt", "a red circle", "--blocks", "1", "-o", "a.mp4", "--json", "a.json"]
    run(environment, "cascade-engine", "generate", *wanted)
    assert json.loads((environment / "a.json").read_text())["random_weights"] is False
