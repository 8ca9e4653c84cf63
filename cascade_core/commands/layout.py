"""Tables and paragraphs that fit a terminal."""

import textwrap
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]
"""The first is the header; the first cell of each is its label."""
MOST_COLUMNS = 110
"""Prose is no wider."""


def fits(rows: Rows, columns: int) -> bool:
    return max(map(len, table(rows).splitlines())) <= columns


def table(rows: Rows) -> str:
    """Labels to the left, all else to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [label.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
        for label, *cells in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def stacked(rows: Rows) -> str:
    """For narrow terminals: a paragraph for each row, a line for each of its cells."""
    (_, *names), *others = rows
    width = max(map(len, names))
    most = max(len(cell) for _, *cells in others for cell in cells)
    paragraphs = (
        [label, *(f"  {name:{width}}  {cell:>{most}}" for name, cell in zip(names, cells, strict=True))]
        for label, *cells in others
    )
    return "\n\n".join(map("\n".join, paragraphs))


def listed(sentences: Sequence[str], columns: int) -> str:
    """As a list with dashes."""
    width = min(columns, MOST_COLUMNS)
    return "\n".join(
        textwrap.fill(sentence, width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
        for sentence in sentences
    )
