"""The Dockerfile, statically, and the gateway's image built by its own steps without a container engine."""

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from docker.utils.build import PatternMatcher

from images.build import binds
from images.check import TARGETS, TREE
from images.context import IGNORE_FILE, context_files, read_patterns
from images.dockerfile import Dockerfile, Step, read_dockerfile
from images.requirements import requirements
from services.common.environment import load_settings
from services.decoder.settings import Settings as DecoderSettings
from services.gateway.base.settings import Settings as GatewaySettings
from services.stage.settings import Settings as StageSettings

SETTINGS: dict[str, Any] = {
    "services.gateway": GatewaySettings,
    "services.stage": StageSettings,
    "services.decoder": DecoderSettings,
}
SERVICES = {
    "gateway": ["services.gateway"],
    "engine": ["services.stage", "services.decoder"],
    "engine-cpu": ["services.stage", "services.decoder"],
}
"""What each image can run; the first by itself."""
METRICS_PORT = "9090"
HTTP_PORT = "8080"
BUILD_DEADLINE_S = 1500


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return read_dockerfile(TREE / "Dockerfile")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((TREE / "pyproject.toml").read_text())
    return table


def steps(dockerfile: Dockerfile, instruction: str) -> list[Step]:
    return [step for stage in dockerfile.stages.values() for step in stage.of(instruction)]


def copied(dockerfile: Dockerfile) -> set[str]:
    """Sources of the build context."""
    plain = (step for step in steps(dockerfile, "COPY") if "from" not in dict(step.flags))
    return {source for step in plain for source in step.words()[:-1]}


def default_port(service: str) -> str:
    return str(load_settings(SETTINGS[service], {}).grpc.port)


def test_the_base_is_one_image_pinned_by_version_and_digest(dockerfile: Dockerfile) -> None:
    bases = {stage.base for stage in dockerfile.stages.values()} - dockerfile.stages.keys()
    assert bases == {dockerfile.arguments["PYTHON"]}
    version = r"python:(\d+\.\d+)\.\d+-slim-\w+@sha256:[0-9a-f]{64}"
    found = re.fullmatch(version, dockerfile.arguments["PYTHON"])
    assert found
    assert found[1] == "3.11", "the Python that these tests are meant to run on"
    assert "latest" not in (TREE / "Dockerfile").read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_what_an_image_says_of_itself(dockerfile: Dockerfile, target: str) -> None:
    said = {name: dockerfile.last(target, name) for name in ("USER", "STOPSIGNAL", "WORKDIR", "EXPOSE")}
    values = {name: step.value for name, step in said.items() if step}
    ports = [*(default_port(service) for service in SERVICES[target]), METRICS_PORT]
    if target == "gateway":
        ports.append(HTTP_PORT)
    assert values == {
        "USER": "10001:10001",
        "STOPSIGNAL": "SIGTERM",
        "WORKDIR": "/tmp",
        "EXPOSE": " ".join(ports),
    }
    own = dockerfile.stages[target].steps
    instructions = [step.instruction for step in own]
    assert "RUN" not in instructions[instructions.index("USER") :], "nothing is built as the image's user"
    labels = " ".join(step.value for step in own if step.instruction == "LABEL")
    assert f'title="cascade-{target}"' in labels


@pytest.mark.parametrize("target", TARGETS)
def test_health_asks_the_ports_that_the_services_have_by_default(dockerfile: Dockerfile, target: str) -> None:
    health = dockerfile.last(target, "HEALTHCHECK")
    assert health
    assert {"interval", "timeout", "start-period"} <= dict(health.flags).keys()
    command = Step("CMD", (), health.value.removeprefix("CMD").strip()).words()
    ports = [default_port(service) for service in SERVICES[target]]
    assert command == ["python", "-m", "services.common.probe", *ports]
    assert find_spec("services.common.probe")


@pytest.mark.parametrize("target", TARGETS)
def test_what_an_image_runs_takes_its_variables(dockerfile: Dockerfile, target: str) -> None:
    entry, default = dockerfile.last(target, "ENTRYPOINT"), dockerfile.last(target, "CMD")
    assert entry
    command = entry.words() + (default.words() if default else [])
    assert command == ["python", "-m", SERVICES[target][0]]
    for service in SERVICES[target]:
        assert find_spec(f"{service}.__main__")
        settings = load_settings(SETTINGS[service], dockerfile.environment(target))
        assert settings.grpc.host == "0.0.0.0", "else nobody outside the container reaches it"


def test_every_step_is_one_of_the_script_that_the_check_runs(dockerfile: Dockerfile) -> None:
    script = (TREE / "images" / "install.sh").read_text()
    known = set(re.findall(r"^(\w+)\) ", script, re.MULTILINE))
    run = [step.words() for step in steps(dockerfile, "RUN")]
    assert run
    for shell, path, step, *_ in run:
        assert (shell, path.lstrip("/")) == ("sh", "images/install.sh")
        assert step in known
    assert {words[2] for words in run} == known, "the script has no step that no image takes"


def test_third_party_layers_come_before_any_source(dockerfile: Dockerfile) -> None:
    for target in TARGETS:
        lineage = [step for stage in dockerfile.lineage(f"{target}-build") for step in stage.steps]
        names = [step.words()[2] if step.instruction == "RUN" else step.value for step in lineage]
        before = names[: names.index("dependencies")]
        assert not any(name.startswith(("services", "cascade", "demo_world")) for name in before)
        assert names.index("dependencies") < names.index("application")


def test_the_context_is_just_what_is_copied(dockerfile: Dockerfile) -> None:
    present, sources = context_files(TREE), copied(dockerfile)
    for source in sources:
        assert any(path == source or path.startswith(f"{source}/") for path in present), source
    stray = {path for path in present if not any(path == s or path.startswith(f"{s}/") for s in sources)}
    assert not stray - {IGNORE_FILE}, "which a builder always gets"
    folders = {source for step in steps(dockerfile, "RUN") for _, source in binds(step)}
    assert all(f"{folder}/install.sh" in present for folder in folders)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".env",
        "services/.env",
        "cascade_core/__pycache__/x.cpython-311.pyc",
        "services/gateway/old.pyc",
        ".venv/bin/python",
        "tls.key",
        "pip.conf",
        "tests/conftest.py",
        "helm/cascade/values.yaml",
        "out/demo.mp4",
    ],
)
def test_what_the_builder_never_gets(path: str) -> None:
    assert PatternMatcher(read_patterns(TREE / IGNORE_FILE)).matches(path)


def test_every_package_is_in_the_wheel(dockerfile: Dockerfile, project: dict[str, Any]) -> None:
    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {pattern.split(".")[0].rstrip("*") for pattern in include}
    wheel = dockerfile.stages["wheel"].of("COPY")
    sources = {source for step in wheel for source in step.words()[:-1]}
    assert packages | {"LICENSE", "README.md", "pyproject.toml"} == sources


def test_no_secret_is_asked_for_as_an_argument(dockerfile: Dockerfile) -> None:
    names = [step.value.split("=")[0] for step in steps(dockerfile, "ARG")]
    names += [name for target in TARGETS for name in dockerfile.environment(target)]
    assert not [name for name in names if re.search("KEY|TOKEN|PASSW|SECRET|CREDENTIAL", name, re.IGNORECASE)]


def test_labels_tell_the_version(dockerfile: Dockerfile, project: dict[str, Any]) -> None:
    versions = [step.value for step in steps(dockerfile, "ARG") if step.value.startswith("VERSION=")]
    assert versions == [f"VERSION={project['project']['version']}"] * len(TARGETS)


def test_requirements_are_those_of_the_extras(project: dict[str, Any]) -> None:
    table = project["project"]
    found = list(requirements(table, ["gateway", "client"]))
    assert not [line for line in found if line.startswith("cascade")], "own extras are followed"
    extras = table["optional-dependencies"]
    expected = {*table["dependencies"], *extras["client"], *extras["gateway"], *extras["server"]}
    assert set(found) == {line for line in expected if not line.startswith("cascade-workspace[")}
    with pytest.raises(KeyError):
        list(requirements(table, ["gatewya"]))


def test_an_unknown_instruction_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch AS x\nADD https://example.com/a /a\n")
    with pytest.raises(ValueError, match="ADD is not known"):
        read_dockerfile(tmp_path / "Dockerfile")


@pytest.mark.slow
@pytest.mark.timeout(BUILD_DEADLINE_S + 60)
def test_the_gateway_builds_without_torch_and_serves(tmp_path: Path) -> None:
    index = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "tqdm"]
    if subprocess.run(index, capture_output=True, timeout=BUILD_DEADLINE_S, check=False).returncode:
        pytest.skip("no package index within reach")
    command = [sys.executable, "-m", "images.check", "gateway"]
    checked = subprocess.run(
        command, cwd=TREE, capture_output=True, text=True, timeout=BUILD_DEADLINE_S, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "gateway: serves and stops:" in checked.stdout
