"""Plays the base image: a copy of this machine's Python, with pip and nothing else."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PIP = "pip==24.0"
"""As the base image has it, older than what installed this project here."""
LEFT_OUT = shutil.ignore_patterns("site-packages", "dist-packages", "test", "__pycache__")


def copy_python(prefix: Path) -> None:
    """Into `prefix`, as the base image has it under /usr/local."""
    here = Path(sys.base_prefix)
    library = f"lib/python{sysconfig.get_python_version()}"
    shutil.copytree(here / library, prefix / library, ignore=LEFT_OUT, symlinks=True)
    for shared in here.glob("lib/libpython*.so*"):
        shutil.copy2(shared, prefix / "lib", follow_symlinks=False)
    (prefix / "bin").mkdir()
    shutil.copy2(
        getattr(sys, "_base_executable", sys.executable), prefix / "bin" / "python3", follow_symlinks=True
    )
    (prefix / "bin" / "python").symlink_to("python3")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(prefix / "bin" / "python"),
        "install",
        "--quiet",
        PIP,
    ]
    environment = os.environ | {"LD_LIBRARY_PATH": library_path(prefix)["LD_LIBRARY_PATH"]}
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=600)


def library_path(prefix: Path) -> dict[str, str]:
    """So that a copied Python finds the library it was linked with, where it was built with a shared one."""
    return {"LD_LIBRARY_PATH": str(prefix / "lib"), "PATH": os.defpath}
