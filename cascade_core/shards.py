"""Folders of safetensors: which files belong to one, and whether a download has finished."""

import json
from pathlib import Path

from cascade_core.errors import WeightsError


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a folder: those its index names, or all of them.

    Raises WeightsError for an index that cannot be read or names a file that is absent.
    """
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if not indexes:
        return sorted(folder.glob("*.safetensors"))
    if len(indexes) > 1:
        raise WeightsError(f"{folder}: {len(indexes)} safetensors indexes; keep the one to load")
    try:
        names = sorted(set(json.loads(indexes[0].read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise WeightsError(f"{indexes[0]}: not a safetensors index: {error!r}") from None
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
