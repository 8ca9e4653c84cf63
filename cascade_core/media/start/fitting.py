"""A picture of any shape to the size of a video."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cascade_core.media.start.start_file import Fit, StartShape

REDUCING_GAP = 3.0
"""How much larger a cheap first step may leave a picture than it is to be: no difference is seen."""


def fitted(picture: Image.Image, shape: StartShape, fit: Fit, pixel_aspect: float = 1.0) -> NDArray[np.uint8]:
    """An RGB picture as [height, width, 3]. `pixel_aspect`: width of its pixels in their heights."""
    if fit == "pad":
        return _padded(picture, shape, pixel_aspect)
    box = crop_box(picture.size, (shape.width, shape.height), pixel_aspect)
    size = (shape.width, shape.height)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box, REDUCING_GAP))


def _padded(picture: Image.Image, shape: StartShape, pixel_aspect: float) -> NDArray[np.uint8]:
    width, height = inner_size(picture.size, (shape.width, shape.height), pixel_aspect)
    inner = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    whole = np.zeros((shape.height, shape.width, 3), np.uint8)
    top, left = (shape.height - height) // 2, (shape.width - width) // 2
    whole[top : top + height, left : left + width] = np.asarray(inner)
    return whole


def crop_box(
    size: tuple[int, int], target: tuple[int, int], pixel_aspect: float
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest middle part of a picture that has the target's shape, in its
    own pixels. Sizes are (width, height)."""
    width, height = size
    wanted = target[0] / target[1] / pixel_aspect  # columns for each row
    inner_width, inner_height = min(width, height * wanted), min(height, width / wanted)
    left, top = (width - inner_width) / 2, (height - inner_height) / 2
    return (left, top, left + inner_width, top + inner_height)


def inner_size(size: tuple[int, int], target: tuple[int, int], pixel_aspect: float) -> tuple[int, int]:
    """(width, height) at which all of a picture is seen inside the target."""
    aspect = size[0] * pixel_aspect / size[1]
    width, height = min(target[0], target[1] * aspect), min(target[1], target[0] / aspect)
    return (max(1, round(width)), max(1, round(height)))
