"""What is in a built environment."""

import json
import subprocess
from importlib.util import cache_from_source
from pathlib import Path

from images.base import library_path
from images.build import ENVIRONMENT, PYTHON_PREFIX, Build
from images.container import CheckFailed

HEAVY = frozenset({"av", "numpy", "torch", "transformers"})
"""Of engines only: the gateway stays slim."""
TOOLS = frozenset({"pip", "wheel"})
"""setuptools is none of them where torch is: it is among its requirements."""
CHECKED_HASH = 0b11
"""Flags of a bytecode file."""
LIST = "import importlib.metadata as m, json; print(json.dumps([d.name for d in m.distributions()]))"


def check_contents(build: Build) -> None:
    """Raises CheckFailed."""
    names = distributions(build)
    is_engine = build.target != "gateway"
    if tools := names & (TOOLS if is_engine else TOOLS | {"setuptools"}):
        raise CheckFailed(f"{build.target} holds build tools: {', '.join(sorted(tools))}")
    if is_engine and (missing := HEAVY - names):
        raise CheckFailed(f"{build.target} lacks {', '.join(sorted(missing))}")
    if not is_engine and (heavy := HEAVY & names):
        raise CheckFailed(f"{build.target} holds {', '.join(sorted(heavy))}")
    if not is_engine and not (build.path(ENVIRONMENT) / "bin" / "cascade").is_file():
        raise CheckFailed(f"{build.target} lacks the command cascade")
    if without := [path for path in sources(build) if not has_bytecode(path)]:
        raise CheckFailed(
            f"{build.target}: {len(without)} modules without lasting bytecode, such as {without[0]}"
        )
    if left := [path for path in build.path(PYTHON_PREFIX).rglob("*") if path.name in ("pip", "ensurepip")]:
        raise CheckFailed(f"{build.target}: the base still holds {left[0]}")


def distributions(build: Build) -> set[str]:
    """Names of what is installed."""
    python = build.path(ENVIRONMENT) / "bin" / "python"
    environment = library_path(build.path(PYTHON_PREFIX))
    command = [str(python), "-I", "-c", LIST]
    listed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=600)
    return {name.lower() for name in json.loads(listed.stdout)}


def sources(build: Build) -> list[Path]:
    """Our own modules in the environment."""
    (packages,) = build.path(ENVIRONMENT).glob("lib/python3.*/site-packages")
    own = ("cascade", "cascade_client", "cascade_core", "externalscaler", "services")
    return [path for name in own for path in (packages / name).rglob("*.py")]


def has_bytecode(path: Path) -> bool:
    """Valid by a hash of the source instead of its time: PEP 552."""
    compiled = Path(cache_from_source(str(path)))
    return compiled.is_file() and int.from_bytes(compiled.read_bytes()[4:8], "little") == CHECKED_HASH
