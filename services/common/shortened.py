"""Text for people: what it quotes is cut, so that a file's content pasted into a setting fills no log."""

import re
from collections.abc import Iterable

MOST = 80
"""Characters of what is quoted."""
LONG = re.compile(r"\S{160,}")


def shortened(text: str, quoted: Iterable[str] = ()) -> str:
    """Without the ends of long words, and of long values of `quoted` that stand in it."""
    for value in quoted:
        if len(value) > MOST:
            text = text.replace(value, cut(value))
    return LONG.sub(lambda found: cut(found[0]), text)


def cut(value: str) -> str:
    return f"{value[:MOST]}... ({len(value)} characters)"
