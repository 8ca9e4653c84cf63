"""A PNG, JPEG or WebP file to one picture."""

import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cascade_core.errors import UnusableFile
from cascade_core.media.start.checks import check_size, damage_told
from cascade_core.media.start.fitting import fitted
from cascade_core.media.start.start_file import StartBounds, StartFile, StartShape


def read_still(file: StartFile, kind: str, shape: StartShape, bounds: StartBounds) -> NDArray[np.uint8]:
    """RGB [height, width, 3]. `kind`: as `file_type` has it. Raises UnusableFile."""
    with damage_told(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oddities in metadata
        try:
            opened = Image.open(BytesIO(file.data), formats=[kind.upper()])
        except Image.DecompressionBombError:
            raise UnusableFile(f"must have {bounds.max_pixels / 1e6:.1f} megapixels or fewer") from None
        with opened as picture:
            check_size(picture.width, picture.height, bounds.max_pixels)
            _check_single(picture, kind)
            picture.draft("RGB", (shape.width, shape.height))  # a JPEG is opened no larger than it has to be
            ImageOps.exif_transpose(picture, in_place=True)
            return fitted(to_rgb(picture), shape, file.fit)


def _check_single(picture: Image.Image, kind: str) -> None:
    # Many phones' JPEGs hold more than one picture: a preview, a map of brightness.
    if kind != "JPEG" and getattr(picture, "is_animated", False):
        raise UnusableFile(f"is an animated {kind}, must be a single picture; send animations as an MP4 clip")


def to_rgb(picture: Image.Image) -> Image.Image:
    """Eight bits a channel; what is transparent lies on white."""
    if picture.mode.startswith("I"):  # Pillow would cut 16 bits to 8 at the wrong end
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white
