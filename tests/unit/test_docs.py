"""What the documents name exists: files, headings, settings, metrics."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
CODE = ("services", "cascade_core", "cascade_client", "helm/cascade/templates")
SUFFIXES = r"(_total|_bucket|_sum|_count|_created)?$"
PACKAGES = {"cascade_core", "cascade_client"}
OTHERS = {"cascade_release"}
"""Labels that Prometheus adds."""
WILD = re.compile(r"CASCADE_[A-Z]+_\*")


def named(text: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, text))


def prose(path: Path) -> str:
    """Without code, where brackets are no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    lines = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL).splitlines()
    headings = [line.lstrip("#").strip().lower() for line in lines if re.match(r"#{1,6} ", line)]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def sources() -> Iterator[str]:
    for folder in CODE:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".tpl", ".yaml"} and path.is_file():
                yield path.read_text()


@pytest.fixture(scope="module")
def code() -> str:
    return "\n".join(sources())


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = named(prose(path), r"\]\(([^)\s]+)\)")
    broken = []
    for link in sorted(link for link in links if "://" not in link):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_settings_exist(path: Path) -> None:
    """Those of the services are in `settings.md`, which is compared with the code; the client has few."""
    known = named((ROOT / "docs/settings.md").read_text(), r"CASCADE_[A-Z0-9_]+")
    known |= {name for text in sources() for name in named(text, r"\"(CASCADE_[A-Z_]+)\"")}
    known |= {"CASCADE_API_KEY", "CASCADE_CLIENT_GATEWAY"}  # of examples/node, and of the command
    text = WILD.sub("", path.read_text())
    assert sorted(named(text, r"CASCADE_[A-Z0-9]+(?:_[A-Z0-9]+)+") - known) == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_metrics_exist(path: Path, code: str) -> None:
    known = named(code, r"\"(cascade_[a-z0-9_]+)\"") | PACKAGES | OTHERS
    known |= {f"cascade_decoder_{name}" for name in named(code, r"(?:counter|histogram)\(\"(\w+)\"")}
    found = named(path.read_text(), r"\bcascade_[a-z0-9_]+(?![\w/.])")
    assert (
        sorted(name for name in found if name not in known and re.sub(SUFFIXES, "", name) not in known) == []
    )


def test_symptoms_are_many_and_each_has_a_way_out() -> None:
    text = (ROOT / "docs/production.md").read_text().partition("\n## By symptom\n")[2]
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in text.splitlines() if row.startswith("| ")]
    assert len(rows) > 20
    assert [row for row in rows if len(row) != 3 or not all(cell.strip() for cell in row)] == []
