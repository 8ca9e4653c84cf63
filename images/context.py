"""The build context: what the builder gets of the working tree, by .dockerignore."""

import shutil
import subprocess
from pathlib import Path

from docker.utils.build import PatternMatcher

IGNORE_FILE = ".dockerignore"


def context_files(tree: Path) -> set[str]:
    """Files that git knows or would add, and that .dockerignore lets through; by Docker's own matching."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True, timeout=60).stdout
    matcher = PatternMatcher(read_patterns(tree / IGNORE_FILE))
    present = (path for path in listed.split("\0") if path and (tree / path).is_file())
    return {path for path in present if not matcher.matches(path)}


def read_patterns(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def copy_context(tree: Path, to: Path) -> None:
    for name in sorted(context_files(tree)):
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree / name, target)
