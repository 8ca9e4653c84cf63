"""What the documents name exists: files, headings, settings, metrics."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from cascade.v1.session_pb2 import SessionState
from tests.paths import ROOT

DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
GUIDES = [
    *DOCS,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted(ROOT.glob("*/README.md")),
    ROOT / "helm/cascade/README.md",
]
CODE = ("services", "cascade_core", "cascade_client", "helm/cascade/templates")
ARCHITECTURE = ROOT / "docs/architecture.md"
SUFFIXES = r"(_total|_bucket|_sum|_count|_created)?$"
PACKAGES = {"cascade_core", "cascade_client", "cascade_video"}
OTHERS = {"cascade_release"}
"""Labels that Prometheus adds."""
MODULE = r"((?:benchmarks|cascade|demo_world|docs|images|services|tests)[a-z_]*(?:\.[a-z_]+)*)"
SOURCES = (
    "benchmarks",
    "cascade_client",
    "cascade_core",
    "demo_world",
    "docs",
    "helm",
    "proto",
    "services",
    "tests",
)
RECORD = (
    r"(?P<number>\d+)\. [^\n]+\n\n\d{4}-\d\d-\d\d, "
    r"(?P<status>accepted|(changed|superseded) by \d+( and \d+)?)\n\n\S"
)
WILD = re.compile(r"CASCADE_[A-Z]+_\*")


def called(path: Path) -> str:
    return str(path.relative_to(ROOT))


def named(text: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, text, re.MULTILINE))


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


@pytest.mark.parametrize("path", GUIDES, ids=called)
def test_links_lead_somewhere(path: Path) -> None:
    links = named(prose(path), r"\]\(([^)\s]+)\)")
    broken = []
    for link in sorted(link for link in links if "://" not in link):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", GUIDES, ids=called)
def test_paths_exist(path: Path) -> None:
    """A name in backticks that begins with a folder of the repository, whole or with a `*` in it."""
    folders = "|".join(
        re.escape(entry.name) for entry in ROOT.iterdir() if entry.is_dir() and entry.name != "out"
    )
    names = named(path.read_text(), rf"`((?:{folders})/[\w./*-]*)`")
    assert sorted(name for name in names if not any(ROOT.glob(name.rstrip("/")))) == []


def test_files_that_the_code_names_exist() -> None:
    """Files of Python in backticks: of any folder, or with the way to them from here or from the top."""
    files = [file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")]
    names = {file.name for file in files}
    missing = []
    for file in files:
        for name in named(file.read_text(), r"`((?:\w+/)*\w+\.py)`"):
            found = (file.parent / name).exists() or (ROOT / name).exists()
            if not (found if "/" in name else name in names):
                missing.append((called(file), name))
    assert missing == []


@pytest.mark.parametrize("path", GUIDES, ids=called)
def test_modules_exist(path: Path) -> None:
    """What is run with `python -m`, and what an example imports from where."""
    text = path.read_text()
    imports = re.findall(rf"^from {MODULE} import (.+)", text, flags=re.MULTILINE)
    wanted = [(module, "") for module in re.findall(rf"python -m {MODULE}(?!\.?\w)", text)]
    wanted += [(module, name) for module, names in imports for name in names.split(", ")]
    assert [one for one in wanted if not holds(*one)] == []


def holds(module: str, name: str) -> bool:
    """`name` empty: it can be run."""
    base = ROOT / module.replace(".", "/")
    package = base / ("__init__.py" if name else "__main__.py")
    sources = [file.read_text() for file in (base.with_suffix(".py"), package) if file.is_file()]
    return any(re.search(rf"\b{name}\b", source) for source in sources)


@pytest.mark.parametrize("path", GUIDES, ids=called)
def test_make_has_what_is_named(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert sorted(named(path.read_text(), r"(?:`|^ {4})make ([a-z-]+)") - targets) == []


def test_decisions_are_numbered_and_dated() -> None:
    """Each with a status; what a status or a text refers to exists; the index has every record once."""
    index, *records = re.split(r"^## ", (ROOT / "docs/decisions.md").read_text(), flags=re.MULTILINE)
    numbers = list(range(1, len(records) + 1))
    heads = [re.match(RECORD, record) for record in records]
    assert [record.partition("\n")[0] for record, head in zip(records, heads, strict=True) if not head] == []
    assert [int(head["number"]) for head in heads if head] == numbers
    statuses = " ".join(head["status"] for head in heads if head)
    references = re.findall(r"\d+", statuses + " ".join(re.findall(r"\brecords? \d+", "".join(records))))
    assert {int(reference) for reference in references} <= set(numbers)
    rows = ", ".join(re.findall(r"\| (\d[\d, to]*) \|", index))
    listed = [
        range(int(first), int(last or first) + 1) for first, last in re.findall(r"(\d+)(?: to (\d+))?", rows)
    ]
    assert sorted(chain.from_iterable(listed)) == numbers


def test_the_architecture_shows_what_is_there() -> None:
    """The states of a session are the contract's; each arrow of a block's way is a step of the table."""
    processes, _rooms, way, life = re.findall(r"```mermaid\n(.*?)```", ARCHITECTURE.read_text(), re.DOTALL)
    assert processes.count("subgraph") == len(re.findall(r"^    end$", processes, re.MULTILINE))
    states = {state.removeprefix("SESSION_STATE_") for state, _ in SessionState.items()} - {"UNSPECIFIED"}
    assert named(life, r"\b[A-Z]{5,}\b") == states
    steps = re.findall(r"^\| (\d+(?:, \d+)*) \|", ARCHITECTURE.read_text(), re.MULTILINE)
    numbers = [int(number) for step in steps for number in step.split(", ")]
    assert numbers == list(range(1, len(re.findall(r"->>", way)) + 1))


@pytest.mark.parametrize("path", DOCS, ids=called)
def test_settings_exist(path: Path) -> None:
    """Those of the services are in `settings.md`, which is compared with the code; the client has few."""
    known = named((ROOT / "docs/settings.md").read_text(), r"CASCADE_[A-Z0-9_]+")
    known |= {name for text in sources() for name in named(text, r"\"(CASCADE_[A-Z_]+)\"")}
    known |= {"CASCADE_API_KEY", "CASCADE_CLIENT_GATEWAY"}  # of examples/node, and of the command
    text = WILD.sub("", path.read_text())
    assert sorted(named(text, r"CASCADE_[A-Z0-9]+(?:_[A-Z0-9]+)+") - known) == []


@pytest.mark.parametrize("path", DOCS, ids=called)
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
