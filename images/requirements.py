"""`python requirements.py PYPROJECT EXTRA ...` prints what the project and these extras need, one a line.

So third-party packages can be installed, and their layer kept, before any source is there.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: Iterable[str]) -> Iterator[str]:
    """Those of the `[project]` table; extras that name other extras of it are followed. Raises KeyError for
    one that does not exist."""
    yield from project["dependencies"]
    for extra in extras:
        yield from of_extra(project, extra)


def of_extra(project: dict[str, Any], extra: str) -> Iterator[str]:
    own = re.compile(rf"{re.escape(project['name'])}\[(.+)\]")
    for line in project["optional-dependencies"][extra]:
        if nested := own.fullmatch(line):
            for name in nested[1].split(","):
                yield from of_extra(project, name.strip())
        else:
            yield line


if __name__ == "__main__":
    table = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
    print("\n".join(dict.fromkeys(requirements(table, sys.argv[2:]))))
