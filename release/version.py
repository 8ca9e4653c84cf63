"""The version: `pyproject.toml` says it, and every other place that has to say it says the same.

python -m release.version                    print it
python -m release.version --check            exit with what disagrees
python -m release.version --notes            what CHANGELOG.md tells of it
python -m release.version --may-release X.Y.Z    exit with what stands in its way
python -m release.version --release X.Y.Z    set it everywhere, commit and tag; nothing is pushed

A release wants a clean `main` and a dated section in CHANGELOG.md.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
PLACES = {
    "pyproject.toml": r'^version = "(.+)"$',
    "cascade/__init__.py": r'^__version__ = "(.+)"$',
    "Dockerfile": r"^ARG VERSION=(.+)$",
    "helm/cascade/Chart.yaml": r"^(?:version|appVersion| +version): (.+)$",
    "helm/cascade/charts/redis/Chart.yaml": r"^version: (.+)$",
    "k8s/client-job.yaml": r"image: cascade-gateway:(\S+)$",
    "k8s/README.md": r"cascade-(?:gateway|engine-cpu):(\S+)",
}
"""File -> where in it; the group is the version."""
FORM = re.compile(r"\d+\.\d+\.\d+")
"""What PyPI, Helm and image tags all take."""
DEADLINE_S = 60


class ReleaseRefused(Exception):
    """What is wrong, and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m release.version", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with what disagrees")
    parser.add_argument("--notes", action="store_true", help="print what CHANGELOG.md tells of it")
    parser.add_argument("--may-release", metavar="X.Y.Z", help="exit with what stands in its way")
    parser.add_argument("--release", metavar="X.Y.Z", help="set it everywhere, commit and tag")
    options = parser.parse_args()
    try:
        if options.release is not None:
            release(TREE, options.release)
        elif options.may_release is not None:
            require(TREE, options.may_release)
        elif options.check:
            check(TREE)
        print(notes(TREE, version(TREE)) if options.notes else version(TREE))
    except ReleaseRefused as error:
        sys.exit(str(error))
    return 0


def version(tree: Path) -> str:
    said: str = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["version"]
    return said


def check(tree: Path) -> None:
    """Raises ReleaseRefused where a place says another version, or none."""
    expected = version(tree)
    found = [(path, said) for path, pattern in PLACES.items() for said in say(tree / path, pattern)]
    if wrong := [f"{path}: {said or 'nothing'}" for path, said in found if said != expected]:
        raise ReleaseRefused(f"pyproject.toml says {expected}, but {'; '.join(wrong)}")


def say(path: Path, pattern: str) -> Iterator[str]:
    """Every version that the file says; one empty string where it says none."""
    yield from re.findall(pattern, path.read_text(), re.MULTILINE) or [""]


def release(tree: Path, wanted: str) -> None:
    """Raises ReleaseRefused before anything is changed."""
    require(tree, wanted)
    for path, pattern in PLACES.items():
        rewrite(tree / path, pattern, wanted)
    check(tree)
    if changed(tree):
        everything = ("--all", "--no-verify")  # `make check` has just run
        git(tree, "commit", "--quiet", *everything, "--message", f"Release {wanted}")
    git(tree, "tag", "--annotate", f"v{wanted}", "--message", f"Cascade {wanted}")


def require(tree: Path, wanted: str) -> None:
    if not FORM.fullmatch(wanted):
        raise ReleaseRefused(f"version {wanted!r} is not of the form 1.2.3")
    if (branch := git(tree, "branch", "--show-current").strip()) != "main":
        raise ReleaseRefused(f"a release is made on main, not on {branch or 'no branch'}")
    if changes := changed(tree):
        raise ReleaseRefused(f"commit or put away first:\n{changes}")
    tags = [tag.removeprefix("v") for tag in git(tree, "tag", "--list", "v*").split()]
    if older := [tag for tag in tags if FORM.fullmatch(tag) and number(tag) >= number(wanted)]:
        raise ReleaseRefused(f"{wanted} does not come after {max(older, key=number)}, which has a tag")
    check(tree)
    notes(tree, wanted)


def notes(tree: Path, wanted: str) -> str:
    """The dated section of CHANGELOG.md. Raises ReleaseRefused where there is none."""
    text = (tree / "CHANGELOG.md").read_text()
    section = re.search(rf"^## \[?{re.escape(wanted)}\]? - (\S+)\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if section is None:
        raise ReleaseRefused(f"CHANGELOG.md has no section `## {wanted} - YYYY-MM-DD`")
    try:
        date.fromisoformat(section[1])
    except ValueError:
        raise ReleaseRefused(f"CHANGELOG.md: {section[1]} at {wanted} is no date, YYYY-MM-DD") from None
    if not section[2].strip():
        raise ReleaseRefused(f"CHANGELOG.md tells nothing of {wanted}")
    return section[2].strip()


def rewrite(path: Path, pattern: str, wanted: str) -> None:
    def replaced(found: re.Match[str]) -> str:
        start, end = (position - found.start() for position in found.span(1))
        return found[0][:start] + wanted + found[0][end:]

    path.write_text(re.sub(pattern, replaced, path.read_text(), flags=re.MULTILINE))


def number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def changed(tree: Path) -> str:
    return git(tree, "status", "--porcelain").strip()


def git(tree: Path, *arguments: str) -> str:
    """Raises ReleaseRefused with what git says."""
    command = ["git", "-C", str(tree), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode:
        raise ReleaseRefused(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
