"""All settings of a service as text, from the docstrings beside the fields."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from services.common.environment import FILE_VARIABLE, PREFIX


@dataclass(frozen=True)
class Entry:
    """One setting."""

    variable: str
    """Environment variable; in the settings file it is `[section] field`."""
    default: str
    meaning: str


def describe(kind: type) -> Iterator[tuple[str, list[Entry]]]:
    """(section, its settings) of a class that `load_settings` takes."""
    for section, section_kind in get_type_hints(kind).items():
        meanings = meanings_of(section_kind)
        yield (
            section,
            [
                Entry(f"{PREFIX}{section}_{each.name}".upper(), default_of(each), meanings[each.name])
                for each in fields(section_kind)
            ],
        )


def print_help(service: str, kind: type) -> None:
    """For `python -m services.SERVICE --help`."""
    print(f"python -m services.{service}: configured by environment variables, and by the TOML file that")
    print(f"{FILE_VARIABLE} names ([section] field = value); variables win. Lists take commas.")
    for section, entries in describe(kind):
        print(f"\n[{section}]")
        for entry in entries:
            print(f"  {entry.variable} = {entry.default}")
            print(textwrap.indent(textwrap.fill(entry.meaning, 96), "      "))


def markdown(title: str, kind: type) -> str:
    """A table per section."""
    parts = [f"## {title}\n"]
    for section, entries in describe(kind):
        rows = [
            f"| `{entry.variable}` | {cell(entry.default)} | {cell(entry.meaning)} |" for entry in entries
        ]
        parts += [f"### [{section}]\n", "| variable | default | meaning |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(parts)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def meanings_of(kind: type) -> dict[str, str]:
    """Field -> the docstring under it; a subclass's wins."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, doc in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = doc.value.value if is_text(doc) else ""  # type: ignore[attr-defined]
                found[field.target.id] = " ".join(text.split()) or found.get(field.target.id, "")
    return found


def is_text(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def default_of(field: Any) -> str:
    value = field.default
    if value is MISSING:
        value = field.default_factory()
    if value is None:
        return "(none)"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "(none)"
    return str(value).lower() if isinstance(value, bool) else str(value)
