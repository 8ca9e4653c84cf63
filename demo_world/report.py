"""The evaluation's figures as Markdown."""

from collections.abc import Sequence
from typing import Any

from demo_world.clips import Clip
from demo_world.experiments import ATTRIBUTES, PROMPT, SETTLED_BLOCKS, SOON, STEADY_BLOCKS, SWITCH_BLOCK
from demo_world.world import Frames

Summary = dict[str, Any]
TITLES = {"prompt": "all four", "one_object": "one object", "jump": "jump (px)"}
COLUMNS = ("prompt", *ATTRIBUTES, "jump")


def render(results: Summary) -> str:
    """Markdown of all tables that the results hold."""
    info = results["machine"]
    head = [
        "# Demo model, scored by image analysis",
        f"`{results['command']}` · {info['processor']}, {info['cores']} cores · torch {info['torch']} · "
        f"{info['date']} · {results['weights']}",
        "In brackets: 95 % intervals (Wilson for shares; clips drawn anew for means and differences). "
        "*All four*: colour, shape, motion and background are right. *Jump*: how far the object's centre "
        "moves at most between two pictures, beyond its speed.",
    ]
    bodies = {"steady": _steady, "switch": _switch, "drift": _drift}
    parts = [part for name, body in bodies.items() if name in results for part in body(results[name])]
    return "\n\n".join(head + parts) + "\n"


def captioned(clips: Sequence[Clip]) -> list[tuple[str, Frames]]:
    """Rows of a contact sheet: those that kept their frames, with what is wrong in the end."""
    rows = []
    for clip in clips:
        if clip.frames is not None:
            last = max(clip.take.scenes)
            first = clip.take.num_blocks - SETTLED_BLOCKS if last else 0
            right = clip.scores(clip.take.scenes[last], first).right()
            wrong = ", ".join(name for name, is_right in right.items() if not is_right)
            caption = "   |   ".join(clip.take.prompts.values())
            rows.append((f"{caption}      [wrong: {wrong}]" if wrong else caption, clip.frames))
    return rows


def _steady(runs: Summary) -> list[str]:
    num_clips = next(iter(runs.values()))["prompt"]["num"]
    rows = [[name, *(_estimate(run[column], column) for column in COLUMNS)] for name, run in runs.items()]
    parts = [f"## One prompt, {STEADY_BLOCKS} blocks, {num_clips} clips: % of clips", _table(_heads(), rows)]
    paired = {name: run for name, run in runs.items() if "paired" in run["prompt"]}
    if paired:
        rows = [[name, *(_paired(run[column], column) for column in COLUMNS)] for name, run in paired.items()]
        parts += [
            "## The same clips against sequential: difference in points, p of the paired exact test",
            _table(_heads(), rows),
        ]
    return parts


def _heads() -> list[str]:
    return ["", *(TITLES.get(column, column) for column in COLUMNS)]


def _switch(runs: Summary) -> list[str]:
    columns = ("prompt", *PROMPT)
    titles = [TITLES.get(column, column) for column in columns]
    parts = [
        f"## A switch asked for at block {SWITCH_BLOCK}: blocks until it shows, mean "
        f"(% of clips within {SOON} blocks; clips in which it never shows)",
        "Block 0 is the one counted from: the first that the switch touched, or the one asked for. "
        "Single attributes: over clips in which the switch changes them.",
    ]
    rows = [
        [name, since.partition("_")[2], *(_delay(run[since][column]) for column in columns)]
        for name, run in runs.items()
        for since in ("since_touched", "since_asked")
    ]
    parts.append(_table(["", "since block", *titles], rows))
    rows = [
        [name, *(_estimate(run["settled"][column], column) for column in ATTRIBUTES)]
        for name, run in runs.items()
    ]
    parts.append(f"## The last {SETTLED_BLOCKS} blocks of these clips: % of clips right under the new prompt")
    parts.append(_table(["", *(TITLES.get(column, column) for column in ATTRIBUTES)], rows))
    return parts


def _drift(runs: Summary) -> list[str]:
    rows = [
        [name, TITLES.get(column, column), *(_estimate(run[column][end], column) for end in ends)]
        for name, run in runs.items()
        for ends in [("first", "last", "change")]
        for column in (*ATTRIBUTES, "jump")
    ]
    first = next(iter(runs.values()))
    title = f"## Drift, {len(first['clips'])} clips of {first['seconds']} s: % of right pictures"
    return [title, _table(["", "", "first 5 s", "last 5 s", "change"], rows)]


def _estimate(value: Summary, column: str) -> str:
    """`97.2 (90.1..99.5)`: percent, or pixels for the jump."""
    middle = value.get("share", value.get("mean"))
    if middle is None:
        return "–"
    scale = 1 if column == "jump" else 100
    return f"{scale * middle:.1f} ({scale * value['low']:.1f}..{scale * value['high']:.1f})"


def _paired(value: Summary, column: str) -> str:
    return f"{_estimate(value['paired']['difference'], column)}, p = {value['paired']['p']:.2g}"


def _delay(value: Summary) -> str:
    """`1.3 (95.0 %; 0)`."""
    if value["soon"]["share"] is None:
        return "–"
    average = "–" if value["mean_blocks"] is None else f"{value['mean_blocks']:.1f}"
    return f"{average} ({100 * value['soon']['share']:.0f} %; {value['num_never']})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
