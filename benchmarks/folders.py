"""Where a benchmark writes: looked at before minutes of measuring, and never half a file."""

import sys
from pathlib import Path

from cascade_core.commands.bench import check_folder
from cascade_core.errors import InvalidConfig


def need_folder(folder: Path, option: str = "--out") -> None:
    """Make the folder; end with a sentence where it cannot be written."""
    try:
        check_folder(folder, option)
    except InvalidConfig as error:
        sys.exit(f"benchmarks: {error}")


def write_whole(path: Path, text: str) -> None:
    """The former file stays until the new one is complete, also where this process is killed."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text)
    partial.replace(path)
