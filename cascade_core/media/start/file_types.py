"""What a file is by its first bytes, whatever it is called: the four types that are opened, and names of
others."""

from cascade_core.errors import UnusableFile
from cascade_core.media.start.start_file import StartFile

TAKEN = {"image": ("PNG", "JPEG", "WebP"), "video": ("MP4",)}
PICTURE_BRANDS = {
    "heic": "HEIC",
    "heix": "HEIC",
    "mif1": "HEIF",
    "msf1": "HEIF",
    "avif": "AVIF",
    "avis": "AVIF",
}
"""Types that share MP4's boxes, by their brand."""
BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"\x1aE\xdf\xa3": "WebM or Matroska",
    b"#EXTM3U": "a playlist",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
}


def file_type(data: bytes) -> str:
    """Such as `PNG`; empty where it is none that we know the name of."""
    if data[4:8] == b"ftyp":
        return PICTURE_BRANDS.get(data[8:12].decode("latin-1"), "MP4")
    if data[:4] == b"RIFF":
        return {b"WEBP": "WebP", b"AVI ": "AVI"}.get(data[8:12], "")
    return next((name for start, name in BEGINNINGS.items() if data.startswith(start)), "")


def check_type(file: StartFile) -> str:
    """Its type; raises UnusableFile where it is none of those that are taken."""
    found, taken = file_type(file.data), TAKEN[file.kind]
    if found not in taken:
        *others, last = taken
        allowed = f"{', '.join(others)} or {last}" if others else last
        raise UnusableFile(f"is {found or 'of an unknown type'}, must be {allowed}")
    return found
