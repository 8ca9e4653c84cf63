"""A start file, opened: how many pictures it gives, and the pictures, one at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascade_core.media.start.file_types import check_type
from cascade_core.media.start.start_file import StartBounds, StartFile, StartShape


@dataclass(frozen=True)
class StartPictures:
    """What a start file gives."""

    num_pictures: int
    """One of a still; 4 * block_frames * n - 3 of a clip, n blocks."""
    pictures: Iterator[NDArray[np.uint8]]
    """RGB [height, width, 3], once. Raises UnusableFile."""


def open_start(file: StartFile, shape: StartShape, bounds: StartBounds) -> StartPictures:
    """Raises UnusableFile, here or while the pictures are taken; MemoryError where the process may have too
    little."""
    kind = check_type(file)
    # Each of them is imported where it is needed: a process that opens one file starts in half the time.
    if file.kind == "image":
        from cascade_core.media.start.still import read_still

        return StartPictures(1, iter([read_still(file, kind, shape, bounds)]))
    from cascade_core.media.start.clip import Clip

    clip = Clip(file, shape, bounds)
    return StartPictures(clip.num_pictures, clip.pictures())
