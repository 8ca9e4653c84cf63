"""Draws docs/cascade.svg from the schedule itself: `python docs/cascade_figure.py`."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from cascade_core.config import WindowConfig
from cascade_core.schedule import Shape, Timeline, Work, plan_tick

NUM_RANKS, NUM_PASSES, NUM_TICKS = 5, 5, 13
CELL, GAP, LEFT, TOP = 58, 4, 70, 46
NOISE_COLOURS = ("#5b6ee1", "#4f9bd9", "#4fc3b0", "#9bd15f", "#f2b134")
INK = "#8a8f98"


def cells(stagger: int) -> Iterator[tuple[int, int, Work, bool]]:
    """(tick, rank, work, whether the tick finishes the block) of the first ticks of a session."""
    shape = Shape(NUM_PASSES, stagger, NUM_RANKS, WindowConfig())
    timeline = Timeline(session=0)
    for tick in range(NUM_TICKS):
        plan, timeline = plan_tick(timeline, shape)
        assert plan is not None
        for rank, works in enumerate(plan.ranks):
            for work in works:
                yield tick, rank, work, work.block == plan.emits


def text(x: float, y: float, content: str, size: int = 13, fill: str = INK, anchor: str = "middle") -> str:
    style = f'font-size="{size}" fill="{fill}" text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y}" {style}>{escape(content)}</text>'


def grid(title: str, stagger: int, top: int) -> list[str]:
    """One schedule: a row per rank, a column per tick."""
    parts = [text(LEFT, top - 16, title, 15, anchor="start")]
    for rank in range(NUM_RANKS):
        parts.append(text(LEFT - 12, top + rank * CELL + CELL / 2 + 5, f"GPU {rank}", anchor="end"))
        for tick in range(NUM_TICKS):
            x, y = LEFT + tick * CELL, top + rank * CELL
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - GAP}" height="{CELL - GAP}" rx="7" fill="none"'
                f' stroke="{INK}" stroke-opacity="0.25"/>'
            )
    for tick, rank, work, done in cells(stagger):
        x, y, side = LEFT + tick * CELL, top + rank * CELL, CELL - GAP
        is_context = work.pass_index == NUM_PASSES - 1
        outline = ' stroke="#e4572e" stroke-width="3"' if done else ""
        parts.append(
            f'<rect x="{x}" y="{y}" width="{side}" height="{side}" rx="7"'
            f' fill="{NOISE_COLOURS[work.pass_index]}"{outline}/>'
        )
        label = "context" if is_context else f"pass {work.pass_index + 1}"
        parts.append(text(x + side / 2, y + side / 2 - 2, f"block {work.block}", 12, "#14161a"))
        parts.append(text(x + side / 2, y + side / 2 + 14, label, 11, "#14161a"))
    return parts


def main() -> None:
    height = NUM_RANKS * CELL
    second = TOP + height + 56
    width = LEFT + NUM_TICKS * CELL + 10
    parts = grid("Sequential: a block needs 5 passes, one GPU works at a time", NUM_PASSES, TOP)
    parts += grid("Block cascade, stagger 1: all five work, every tick finishes a block", 1, second)
    legend = "Time runs to the right, a column is a tick. Outlined: the block's latents are clean."
    parts.append(text(LEFT, second + height + 24, legend, anchor="start"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {second + height + 40}"'
        f' font-family="system-ui, sans-serif" role="img" aria-label="Sequential and cascaded schedule">'
        + "".join(parts)
        + "</svg>\n"
    )
    Path(__file__).with_name("cascade.svg").write_text(svg)


if __name__ == "__main__":
    main()
