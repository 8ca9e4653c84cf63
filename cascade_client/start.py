"""What a session begins from, as the message that asks for it: a file, its bytes, or a picture in memory."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cascade.v1 import common_pb2
from cascade_client.session import duration

Fit = Literal["crop", "pad"]
Picture: TypeAlias = str | os.PathLike[str] | bytes | Any
"""A path, the bytes of a PNG, JPEG or WebP, an image of Pillow, or an array uint8 [H, W, 3]."""
Clip: TypeAlias = str | os.PathLike[str] | bytes
"""A path, or the bytes of an MP4."""
MAX_BYTES = 8 * 2**20
"""As the contract says."""
QUALITY = 95
"""Of a JPEG, where a PNG would be larger than that."""


def build_start(
    image: Picture | None, video: Clip | None, last_s: float | None, fit: Fit | None
) -> common_pb2.StartFile | None:
    """None: it begins from nothing but its prompt. Reads the file. Raises ValueError and OSError."""
    if image is None and video is None:
        if last_s is not None or fit is not None:
            raise ValueError(f"{'last_s' if last_s is not None else 'fit'}: needs an image or a video")
        return None
    if image is not None and video is not None:
        raise ValueError("image: a session begins from a picture or from a video, not from both")
    if video is None and last_s is not None:
        raise ValueError("last_s: is for a video")
    start = common_pb2.StartFile(
        last=None if last_s is None else duration(last_s),
        fit=common_pb2.Fit.Value(f"FIT_{(fit or 'unspecified').upper()}"),
    )
    if image is not None:
        start.image = picture_bytes(image)
    if video is not None:
        start.video = file_bytes("video", video)
    return start


def picture_bytes(image: Picture) -> bytes:
    """As the bytes of a file. Raises ValueError and OSError."""
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview):
        return file_bytes("image", image)
    if hasattr(image, "__array_interface__") and not hasattr(image, "save"):
        return bounded("image", png(image))
    if not hasattr(image, "save"):
        raise ValueError(f"image: {type(image).__name__} is no path, bytes, image of Pillow or array")
    content = saved(image, "PNG")
    if len(content) > MAX_BYTES:
        content = saved(image.convert("RGB"), "JPEG", quality=QUALITY)
    return bounded("image", content)


def file_bytes(name: str, file: Any) -> bytes:
    """Raises ValueError and OSError."""
    if isinstance(file, bytes | bytearray | memoryview):
        return bounded(name, bytes(file))
    path = Path(file)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise too_large(name, size)
    return bounded(name, path.read_bytes())


def bounded(name: str, content: bytes) -> bytes:
    if not content:
        raise ValueError(f"{name}: is empty")
    if len(content) > MAX_BYTES:
        raise too_large(name, len(content))
    return content


def too_large(name: str, size: int) -> ValueError:
    return ValueError(f"{name}: has {size / 2**20:.1f} MiB, more than the 8 MiB that can be sent")


def saved(image: Any, form: str, **options: Any) -> bytes:
    """By Pillow."""
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(array: Any) -> bytes:
    """Of uint8 [H, W, 3]; with what Python has, so that the client needs neither numpy nor Pillow. Raises
    ValueError."""
    shape, kind = tuple(array.shape), str(array.dtype)
    if len(shape) != 3 or shape[2] != 3 or not all(shape) or kind != "uint8":
        raise ValueError(f"image: an array must be uint8 [H, W, 3], not {kind} {list(shape)}")
    height, width, _ = shape
    pixels, row = memoryview(array.tobytes()), 3 * width
    lines = b"".join(b"\0" + pixels[at : at + row] for at in range(0, height * row, row))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
