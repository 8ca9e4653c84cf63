"""One range of bytes, as a request asks for it (RFC 9110, 14.2)."""

import re

SINGLE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Unsatisfiable(Exception):
    """Nothing of it is there."""


def parse_range(header: str, size: int) -> range | None:
    """Positions of bytes. None: all of them, which is a right answer also to several ranges, or to what is no
    range. Raises Unsatisfiable."""
    found = SINGLE.fullmatch("".join(header.split()).lower())
    if not found or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return None
    if start >= size or start >= stop:
        raise Unsatisfiable
    return range(start, stop)
