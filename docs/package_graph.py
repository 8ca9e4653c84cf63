"""`python docs/package_graph.py` draws the gateway's rooms into docs/architecture.md; `--check` only checks
that this picture is what the imports say; `PACKAGE`, such as `services.gateway.session`, prints any other.

Mermaid: an arrow goes from who imports to who is imported; one that follows from others is left out. Exits
with 1 where rooms import each other in a circle, and names it.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

PATH = Path(__file__).with_name("architecture.md")
DRAWN = "services.gateway"
FENCE = re.compile(r"(<!-- make graph -->\n).*?(<!-- end of graph -->\n)", re.DOTALL)
Imports = Mapping[str, set[str]]


def imports_of(package: str) -> dict[str, set[str]]:
    """By room, the rooms beside it that it imports."""
    graph = grimp.build_graph(package.partition(".")[0])
    rooms = graph.find_children(package)
    for room in rooms:
        graph.squash_module(room)
    return {room: graph.find_modules_directly_imported_by(room) & rooms - {room} for room in sorted(rooms)}


def reached(imports: Imports, room: str) -> set[str]:
    """All that it imports, directly or through others."""
    found = set(imports[room])
    for other in imports[room]:
        found |= reached(imports, other)
    return found


def mermaid(imports: Imports) -> str:
    """Raises CycleError."""
    order = [*TopologicalSorter({room: sorted(others) for room, others in imports.items()}).static_order()]
    return "\n".join(["```mermaid", "flowchart TB", *arrows(imports, order[::-1]), "```", ""])


def arrows(imports: Imports, order: list[str]) -> Iterator[str]:
    for room in order:
        implied = {far for other in imports[room] for far in reached(imports, other)}
        for other in sorted(imports[room] - implied):
            yield f"    {short(room)} --> {short(other)}"


def short(room: str) -> str:
    return room.rpartition(".")[2].strip("_")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", nargs="?", metavar="PACKAGE")
    parser.add_argument("--check", action="store_true")
    wanted = parser.parse_args()
    try:
        graph = mermaid(imports_of(wanted.package or DRAWN))
    except CycleError as error:
        sys.exit(f"a circle: {' imports '.join(reversed(error.args[1]))}")
    if wanted.package:
        print(graph, end="")
        return
    page = PATH.read_text()
    drawn = FENCE.sub(lambda marks: f"{marks[1]}\n{graph}\n{marks[2]}", page)
    if not wanted.check:
        PATH.write_text(drawn)
    elif drawn != page:
        sys.exit(f"{PATH.name} does not show the rooms as they are: make graph")


if __name__ == "__main__":
    main()
