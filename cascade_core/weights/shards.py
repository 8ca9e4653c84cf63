"""Folders of safetensors: which files belong to one, whether a download has finished, how damage is reported.

Imports no torch.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cascade_core.errors import WeightsError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into one WeightsError that names the file.

    Libraries that meet a damaged or hostile file stop with any exception: their checks come late, or never.
    """
    try:
        yield
    except WeightsError as error:
        if str(path) in str(error):
            raise
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"reading {path} failed: {type(error).__name__}: {reason}") from error


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a folder: those its index names, or all of them.

    Raises WeightsError for an index that cannot be read or names a file that is absent.
    """
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if not indexes:
        return sorted(folder.glob("*.safetensors"))
    if len(indexes) > 1:
        raise WeightsError(f"{folder}: {len(indexes)} safetensors indexes; keep the one to load")
    with reading(indexes[0]):
        names = sorted(set(json.loads(indexes[0].read_text())["weight_map"].values()))
        absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise WeightsError(f"{folder}: the index names {', '.join(absent)}, not there; download it again")
    return [folder / name for name in names]


def is_complete(path: Path) -> bool:
    """Whether a file is there, or a folder with something in it.

    Raises WeightsError for a folder whose index names files that are absent: an unfinished download.
    """
    if not path.is_dir():
        return path.is_file()
    shard_files(path)
    return any(path.iterdir())
