"""Outputs that are no ordinary files: `-` for standard output, pipes, devices."""

import os
from pathlib import Path

STANDARD_OUTPUT = Path("-")


def is_piped(path: Path) -> bool:
    """Whether it is written to as it is: it can be neither renamed nor removed."""
    return path == STANDARD_OUTPUT or (os.path.exists(path) and not os.path.isfile(path))
