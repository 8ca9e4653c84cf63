"""Contact sheets: videos as rows of small pictures, each row under its caption."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from demo_world.world import FPS, Frames

MARGIN, GAP, ROW_GAP = 24, 3, 18
"""Pixels around the sheet, between pictures, and below a row."""
CAPTION_SIZE, TITLE_SIZE = 16, 22
"""Pixels of the letters' height."""
PAPER, INK = (226, 226, 222), (40, 40, 44)


def contact_sheet(rows: Sequence[tuple[str, Frames]], path: Path, every: int = 4, title: str = "") -> None:
    """Write a PNG: each row a caption (ASCII) and every `every`-th picture of its frames [T, H, W, 3].

    Rows may differ in length; H and W are the same in all.
    """
    picked = [(caption, frames[::every]) for caption, frames in rows]
    height, width = picked[0][1].shape[1:3]
    columns = max(len(frames) for _, frames in picked)
    top = MARGIN + (2 * TITLE_SIZE if title else 0)
    line = int(1.6 * CAPTION_SIZE)
    pitch = line + height + ROW_GAP
    size = (2 * MARGIN + columns * (width + GAP) - GAP, top + len(picked) * pitch - ROW_GAP + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(TITLE_SIZE))
    for row, (caption, frames) in enumerate(picked):
        y = top + row * pitch
        pen.text((MARGIN, y), caption, INK, ImageFont.load_default(CAPTION_SIZE))
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (MARGIN + column * (width + GAP), y + line))
    sheet.save(path, optimize=True)


def video_rows(frames: Frames, prompts: Mapping[int, str], per_row: int = 64) -> list[tuple[str, Frames]]:
    """One long video [T, H, W, 3] as rows of a contact sheet: a new one at each prompt and when one is full.

    `prompts` are keyed by the frame from which they show; the first is frame 0.
    """
    rows = []
    starts = sorted(prompts)
    for start, end in zip(starts, [*starts[1:], len(frames)], strict=True):
        for first in range(start, end, per_row):
            caption = f"{first / FPS:.1f} s   {prompts[start]}"
            rows.append((caption, frames[first : min(first + per_row, end)]))
    return rows
