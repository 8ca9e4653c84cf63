"""Rendered manifests as text that people read: sorted, and without what changes on its own."""

import copy
import difflib
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import yaml

from tests.chart.rendering import Document, Rendering, labels_of

CHANGING_LABELS = ("helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by")
LONGEST_TEXT = 2000
CONTEXT_LINES = 2


class Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def by_component(rendering: Rendering) -> dict[str, str]:
    """Component (`release`: of none) -> its documents."""
    parts: dict[str, list[Document]] = defaultdict(list)
    for document in rendering.documents:
        parts[labels_of(document).get("app.kubernetes.io/component", "release")].append(document)
    return {component: dump(documents) for component, documents in sorted(parts.items())}


def dump(documents: list[Document]) -> str:
    documents = sorted(documents, key=lambda each: (each["kind"], each["metadata"]["name"]))
    style = {"Dumper": Dumper, "sort_keys": True, "width": 110, "default_flow_style": None}
    return "".join(f"---\n{yaml.dump(normal(each), **style)}" for each in documents)


def normal(document: Document) -> Document:
    """Without versions, checksums, generated secrets and long texts, which have tests of their own."""
    document = copy.deepcopy(document)
    without_versions(document)
    for key in document.get("data") or ():
        text = document["data"][key]
        if document["kind"] == "Secret":
            document["data"][key] = "(generated)"
        elif len(text) > LONGEST_TEXT:
            document["data"][key] = "(long text)"
    return document


def without_versions(node: Any) -> None:
    if isinstance(node, list):
        for each in node:
            without_versions(each)
    if not isinstance(node, dict):
        return
    for label in CHANGING_LABELS:
        node.pop(label, None)
    for key, value in node.items():
        if key.startswith("checksum/"):
            node[key] = "(checksum)"
        elif key == "image" and isinstance(value, str):
            node[key] = re.sub(r":[^:/@]+$", ":(version)", value)
        without_versions(value)


def difference(expected: str, found: str) -> str:
    """A short unified diff for each document that differs; empty: none does."""
    before, after = split(expected), split(found)
    return "\n".join(
        line for name in sorted(before | after) for line in diff_of(name, before.get(name), after.get(name))
    )


def diff_of(name: str, before: str | None, after: str | None) -> Iterator[str]:
    if before is None:
        yield f"+ {name} is new"
    elif after is None:
        yield f"- {name} is gone"
    else:
        lines = (before.splitlines(), after.splitlines())
        yield from difflib.unified_diff(*lines, f"golden {name}", name, lineterm="", n=CONTEXT_LINES)


def split(text: str) -> dict[str, str]:
    """Kind/name -> document."""
    parts = [part for part in text.split("---\n") if part.strip()]
    documents = [(yaml.safe_load(part), part) for part in parts]
    return {f"{each['kind']}/{each['metadata']['name']}": part for each, part in documents}
