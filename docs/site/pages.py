"""What the site has beside docs/: README, the references, and each file that a document links to.

A hook of mkdocs. Documents link as GitHub wants it, by the path from file to file; here each such link leads
to the page of that file.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.site import contracts

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
CONTRACTS = "proto/cascade/v1"
OPENAPI = "services/web/openapi.json"
HIDDEN = re.compile(r"(^|/)\.")
"""Mkdocs leaves out what begins with a dot."""
LANGUAGES = {".py": "python", ".js": "js", ".yaml": "yaml", ".toml": "toml", ".json": "json"}
HTTP = "# HTTP\n\nEvery method with one answer; streams and players: [Writing a client](../clients.md).\n\n"
SDK = (
    "# Python SDK\n\nThe package `cascade_client`; how to use it: [Writing a client](../clients.md#python).\n"
)

sources: dict[str, Path] = {}
"""By page, the file of the repository that it shows."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    sources.clear()
    sources.update(
        {file.src_uri: ROOT / "docs" / file.src_uri for file in files if file.is_documentation_page()}
    )
    for uri, content in [*references(), *linked()]:
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = sources.get(page.file.src_uri)
    return rebased(markdown, source, page.file.src_uri) if source else markdown


def references() -> Iterator[tuple[str, str]]:
    for name, text in contracts.pages():
        yield f"reference/grpc/{name}.md", text
    yield "reference/openapi.json", (ROOT / OPENAPI).read_text()
    yield "reference/http.md", HTTP + '<swagger-ui src="openapi.json"/>\n'
    yield "reference/sdk.md", SDK + "".join(f"\n::: cascade_client.{name}\n" for name in public_names())


def public_names() -> list[str]:
    """What the SDK offers."""
    tree = ast.parse((ROOT / "cascade_client/__init__.py").read_text())
    (value,) = [each.value for each in tree.body if isinstance(each, ast.Assign)]
    names: list[str] = ast.literal_eval(value)
    return names


def linked() -> Iterator[tuple[str, str | bytes]]:
    """README and whatever can be reached from the documents."""
    waiting = [ROOT / "README.md", *sources.values()]
    known = set(waiting)
    while waiting:
        file = waiting.pop()
        uri = page_of(file)
        if ROOT / "docs" not in file.parents and not uri.startswith("reference/"):
            if uri.endswith(".md"):
                sources[uri] = file
            yield uri, content(file)
        targets = set(targets_of(file)) - known if file.suffix == ".md" else set()
        known |= targets
        waiting += sorted(targets)


def targets_of(file: Path) -> Iterator[Path]:
    for part in CODE.split(file.read_text())[::2]:
        for link in LINK.findall(part):
            if target := target_of(link, file):
                yield target


def target_of(link: str, source: Path) -> Path | None:
    """The file or folder that a link in that file means. None: something else, such as an address."""
    path = link.partition("#")[0]
    target = (source.parent / path).resolve() if path and "://" not in path else source
    if target.is_dir() and (target / "README.md").is_file():
        target /= "README.md"
    return target if target != source and target.exists() else None


def page_of(file: Path) -> str:
    """Where the site has it."""
    path = Path(HIDDEN.sub(r"\1", str(file.relative_to(ROOT))))
    if path == Path("README.md"):
        return "index.md"
    if path.parts[0] == "docs":
        return str(path.relative_to("docs"))
    if str(path).startswith(CONTRACTS):
        return f"reference/grpc/{'index' if file.is_dir() else file.stem}.md"
    if file.is_dir():
        return f"tree/{path}/index.md"
    return f"tree/{path}" if file.suffix in {".md", ".binpb"} else f"tree/{path}.md"


def content(file: Path) -> str | bytes:
    title = f"# `{file.relative_to(ROOT)}`\n\n"
    if file.is_dir():
        names = sorted(each.name for each in file.iterdir() if each.name[0] not in "._")
        return title + "".join(f"- `{name}`\n" for name in names)
    if file.suffix == ".md":
        return file.read_text()
    if file.suffix == ".binpb":
        return file.read_bytes()
    return f"{title}`````{LANGUAGES.get(file.suffix, '')}\n{file.read_text()}`````\n"


def rebased(markdown: str, source: Path, uri: str) -> str:
    """With links to pages of the site instead of files of the repository."""

    def lead(match: re.Match[str]) -> str:
        target = target_of(match[1], source)
        if target is None:
            return match[1]
        anchor = match[1].partition("#")[1:]
        return os.path.relpath(page_of(target), Path(uri).parent) + "".join(anchor)

    parts = CODE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(lead, part) for number, part in enumerate(parts))
