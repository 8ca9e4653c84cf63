"""One version in all places, and what a release wants before it changes any of them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from release.version import PLACES, ReleaseRefused, check, git, notes, release, version
from tests.paths import ROOT

NEXT = "7.8.9"


def test_every_place_says_the_same() -> None:
    check(ROOT)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with the files that say the version, at the one that this checkout has."""
    for path in PLACES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    note(tmp_path, f"## {NEXT} - 2031-01-02\n\n- Something.\n")
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", tmp_path], check=True, timeout=60)
    git(tmp_path, "config", "user.name", "Tester")
    git(tmp_path, "config", "user.email", "tester@example.com")
    commit(tmp_path)
    return tmp_path


def note(tree: Path, section: str) -> None:
    (tree / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## Unreleased\n\n{section}\n## 0.0.1 - 2030-01-01\n\n- Old.\n"
    )


def commit(tree: Path) -> None:
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "A change")


def refusal(tree: Path, wanted: str = NEXT) -> str:
    """Of a release that changes nothing."""
    before = git(tree, "rev-parse", "HEAD"), git(tree, "status", "--porcelain"), git(tree, "tag")
    with pytest.raises(ReleaseRefused) as refused:
        release(tree, wanted)
    assert (git(tree, "rev-parse", "HEAD"), git(tree, "status", "--porcelain"), git(tree, "tag")) == before
    return str(refused.value)


def test_a_release_changes_all_places_commits_and_tags(tree: Path) -> None:
    old = version(tree)
    before = {path: (tree / path).read_text() for path in PLACES}
    release(tree, NEXT)
    assert version(tree) == NEXT
    assert notes(tree, NEXT) == "- Something."
    for path, text in before.items():
        assert (tree / path).read_text().replace(NEXT, old) == text, "and nothing else"
    assert git(tree, "status", "--porcelain") == ""
    assert git(tree, "log", "-1", "--format=%s").strip() == f"Release {NEXT}"
    assert git(tree, "rev-parse", f"v{NEXT}^{{commit}}") == git(tree, "rev-parse", "HEAD")
    assert git(tree, "cat-file", "-t", f"v{NEXT}").strip() == "tag"
    assert "does not come after 7.8.9" in refusal(tree), "nor a second time"
    assert "does not come after 7.8.9" in refusal(tree, "7.8.8")


def test_the_version_that_is_there_can_be_released(tree: Path) -> None:
    release(tree, NEXT)
    git(tree, "tag", "--delete", f"v{NEXT}")
    before = git(tree, "rev-parse", "HEAD")
    release(tree, NEXT)
    assert git(tree, "rev-parse", "HEAD", f"v{NEXT}^{{commit}}") == before * 2


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_disagrees_or_says_nothing_is_named(tree: Path, place: str) -> None:
    path, old = tree / place, version(tree)
    text = path.read_text()
    path.write_text(text.replace(old, NEXT, 1))
    with pytest.raises(ReleaseRefused, match=r"says .* but .*: [\d.]+"):
        check(tree)
    if place != "pyproject.toml":
        path.write_text("")
        with pytest.raises(ReleaseRefused, match=f"{place}: nothing"):
            check(tree)


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ("", f"no section `## {NEXT} - "),
        (f"## {NEXT}\n\n- Undated.\n", "no section"),
        (f"## {NEXT} - 2031-02-30\n\n- Something.\n", "2031-02-30 at 7.8.9 is no date"),
        (f"## {NEXT} - 2031-01-02\n\n", "tells nothing"),
        ("## 7x8x9 - 2031-01-02\n\n- Something.\n", "no section"),
    ],
)
def test_the_changelog_has_to_tell_of_it(tree: Path, section: str, why: str) -> None:
    note(tree, section)
    commit(tree)
    assert why in refusal(tree)


@pytest.mark.parametrize("wanted", ["", "7.8", "v7.8.9", "7.8.9rc1", "7.8.9 "])
def test_other_forms_are_refused(tree: Path, wanted: str) -> None:
    assert "not of the form 1.2.3" in refusal(tree, wanted)


def test_a_tree_with_changes_is_refused(tree: Path) -> None:
    (tree / "new.txt").write_text("not committed")
    assert "new.txt" in refusal(tree)


def test_another_branch_is_refused(tree: Path) -> None:
    git(tree, "switch", "--quiet", "--create", "side")
    assert "on main, not on side" in refusal(tree)
