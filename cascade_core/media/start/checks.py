"""What still and clip both refuse, in the same words."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cascade_core.errors import UnusableFile

MIN_SIDE = 16
"""Pixels: smaller ones have nothing to go on with."""
DAMAGED = "is damaged or cut short"


@contextmanager
def damage_told() -> Iterator[None]:
    """A damaged file stops its reader at any byte, so with any exception: each becomes UnusableFile, but for
    MemoryError, and for what is a fault of ours: modules and descriptors that are not there."""
    try:
        yield
    except (UnusableFile, MemoryError, ImportError):
        raise
    except Exception as error:
        match getattr(error, "errno", None):
            case errno.ENOMEM:
                raise MemoryError from None
            case errno.EMFILE:
                raise
        raise UnusableFile(DAMAGED) from None


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise UnusableFile where a picture or clip is too small or too large."""
    if min(width, height) < MIN_SIDE:
        raise UnusableFile(f"is {width}x{height}, must be {MIN_SIDE} pixels or more at each side")
    if width * height > max_pixels:
        is_, most = (f"{pixels / 1e6:.1f}" for pixels in (width * height, max_pixels))
        raise UnusableFile(f"is {width}x{height} ({is_} megapixels), must have {most} megapixels or fewer")
