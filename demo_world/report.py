"""The evaluation's figures as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from demo_world.clips import Clip, first_frame
from demo_world.experiments import (
    ATTRIBUTES,
    LONG_S,
    LONGEST_S,
    PROMPT,
    SETTLED_BLOCKS,
    SOON,
    STEADY_BLOCKS,
    SWITCH_BLOCK,
)
from demo_world.score import judge
from demo_world.starts import GIVEN_BLOCKS, NEAR, NUM_BLOCKS
from demo_world.statistics import MARGIN
from demo_world.world import MOTIONS, Frames

Summary = dict[str, Any]
TITLES = {"prompt": "all four", "one_object": "one object", "jump": "jump (px)", "soon": ""}
SHARES = ("prompt", *ATTRIBUTES)
BEGINNINGS = {
    "clip": f"On from {GIVEN_BLOCKS} blocks that the world drew",
    "switch": f"On from {GIVEN_BLOCKS} blocks that the world drew, under another prompt",
    "picture": "On from one picture, as a clip that stands still",
}
PLACES = {"seam": "jump at the seam", "away_first": "away after a block", "away_last": "away in the end"}
AGAINST = (
    "difference from sequential (what ends in `-fp8`: from the same without) in points (its 95 % interval), "
    f"**yes** where it is not inferior by {100 * MARGIN:g} points"
)


def render(results: Summary) -> str:
    """Markdown of all tables that the results hold."""
    info = results["machine"]
    parts = [
        "# Demo model, scored by image analysis",
        f"`{results['command']}` · {info['processor']}, {info['cores']} cores · torch {info['torch']} · "
        f"{info['date']} · {results['weights']}",
        "In brackets: 95 % intervals (Wilson's for shares, Tango's for their paired differences, clips drawn "
        f"anew for means). *Not inferior*: the whole interval is above -{100 * MARGIN:g} points. *All four*: "
        "colour, shape, motion and background are right. *Jump*: how far the object's centre moves at most "
        "between two pictures, beyond its speed. A stagger of one pass less than sequential makes what "
        "sequential makes, and sequentially `boundary` is `immediate`: neither is filmed twice.",
    ]
    if results["verdicts"]:
        parts += ["## Targets", "\n".join(f"- {verdict}" for verdict in results["verdicts"])]
    if runs := results.get("steady"):
        parts += _steady(runs)
    if runs := results.get("switch"):
        parts += _switch(runs)
    for seconds in (LONG_S, LONGEST_S):
        if runs := results.get(f"drift {seconds}"):
            parts += _drift(runs, seconds)
    for beginning, what in BEGINNINGS.items():
        if runs := results.get(f"start {beginning}"):
            parts += _start(runs, what)
    return "\n\n".join(parts) + "\n"


def captioned(clips: Iterable[Clip]) -> list[tuple[str, Frames]]:
    """Rows of a contact sheet: those that kept their frames, with what is wrong in the end."""
    rows = []
    for clip in clips:
        if clip.frames is not None:
            last = max(clip.take.scenes)
            first = clip.take.num_blocks - SETTLED_BLOCKS if last else 0
            track = clip.pictures[-1].track
            right = judge(track, clip.take.scenes[last], first_frame(first)).right()
            wrong = ", ".join(name for name, is_right in right.items() if not is_right)
            caption = "   |   ".join(clip.take.prompts.values())
            rows.append((f"{caption}      [wrong: {wrong}]" if wrong else caption, clip.frames))
    return rows


def _steady(runs: Summary) -> list[str]:
    num_clips = max(run["prompt"]["num"] for run in runs.values())
    return [
        f"## One prompt, {STEADY_BLOCKS} blocks, {num_clips} clips: % of clips",
        _estimates(runs, (*SHARES, "jump")),
        *_against("## The same clips", runs),
        "## By motion: % of clips in which the motion is right",
        _motions(runs),
    ]


def _switch(runs: Summary) -> list[str]:
    columns = ("prompt", *PROMPT)
    num_clips = max(run["soon"]["num"] for run in runs.values())
    delays = [
        [name, since.partition("_")[2], *(_delay(run[since][column]) for column in columns)]
        for name, run in runs.items()
        for since in ("since_touched", "since_asked")
    ]
    settled = {name: run["settled"] for name, run in runs.items()}
    return [
        f"## A switch asked for at block {SWITCH_BLOCK}, {num_clips} clips: blocks until it shows, mean "
        f"(% of clips within {SOON} blocks; clips in which it never shows)",
        "Block 0 is the one counted from: the first that the switch touched, or the one asked for. "
        "Single attributes: over clips in which the switch changes them.",
        _table(["", "since block", *map(_title, columns)], delays),
        *_against(
            f"## The whole prompt within {SOON} blocks of the asked one",
            {name: {"soon": run["soon"]} for name, run in runs.items()},
            ("soon",),
        ),
        f"## The last {SETTLED_BLOCKS} blocks of these clips: % of clips right under the new prompt",
        _estimates(settled, SHARES),
        *_against("## The same blocks", settled),
    ]


def _start(runs: Summary, what: str) -> list[str]:
    num_clips = max(run["prompt"]["num"] for run in runs.values())
    rows = [
        [
            name,
            *(f"{run[key]['mean']:.1f} ({run[key]['low']:.1f}..{run[key]['high']:.1f})" for key in PLACES),
            f"{100 * run['in_place']['mean']:.0f} %",
        ]
        for name, run in runs.items()
    ]
    return [
        f"## {what}, {num_clips} clips: % of clips right in the {NUM_BLOCKS} blocks after it",
        _estimates(runs, SHARES),
        *_against("## The same clips", runs),
        f"## Where the object is (px); a block later within {NEAR:g} px of where the world would have it",
        _table(["", *PLACES.values(), "in place"], rows),
    ]


def _drift(runs: Summary, seconds: int) -> list[str]:
    rows = [
        [
            name,
            _title(column),
            *(_estimate(run[column][end], column) for end in ("first", "last", "change")),
            _estimate(run[column]["paired"]["difference"], column) if "paired" in run[column] else "–",
        ]
        for name, run in runs.items()
        for column in (*ATTRIBUTES, "jump")
    ]
    num_clips = max(run["num"] for run in runs.values())
    heads = [
        "",
        "",
        "first 5 s",
        "last 5 s",
        "change",
        "last 5 s against sequential, `-fp8` against the same without",
    ]
    return [f"## Drift, {num_clips} clips of {seconds} s: % of right pictures", _table(heads, rows)]


def _estimates(runs: Mapping[str, Summary], columns: Sequence[str]) -> str:
    rows = [[name, *(_estimate(run[column], column) for column in columns)] for name, run in runs.items()]
    return _table(["", *map(_title, columns)], rows)


def _against(title: str, runs: Mapping[str, Summary], columns: Sequence[str] = SHARES) -> list[str]:
    """A table of paired differences, under its title; nothing where the baseline was not filmed."""
    rows = [
        [name, *(_paired(run[column]) for column in columns)]
        for name, run in runs.items()
        if "paired" in run[columns[0]]
    ]
    return [f"{title}: {AGAINST}", _table(["", *map(_title, columns)], rows)] if rows else []


def _motions(runs: Mapping[str, Summary]) -> str:
    rows = [
        [name, *(_percent(run["by"]["motion"].get(motion, {}).get("motion")) for motion in MOTIONS)]
        for name, run in runs.items()
    ]
    return _table(["", *MOTIONS], rows)


def _percent(value: Summary | None) -> str:
    return f"{100 * value['share']:.1f}" if value else "–"


def _title(column: str) -> str:
    return TITLES.get(column, column)


def _estimate(value: Summary, column: str) -> str:
    """`97.2 (90.1..99.5)`: percent, or pixels for the jump."""
    middle = value.get("share", value.get("mean"))
    if middle is None:
        return "–"
    scale = 1 if column == "jump" else 100
    return f"{scale * middle:.1f} ({scale * value['low']:.1f}..{scale * value['high']:.1f})"


def _paired(value: Summary) -> str:
    paired = value["paired"]
    return f"{_estimate(paired['difference'], '')} {'**yes**' if paired['non_inferior'] else 'no'}"


def _delay(value: Summary) -> str:
    """`1.3 (95.0 %; 0)`."""
    if value["soon"]["share"] is None:
        return "–"
    average = "–" if value["mean_blocks"] is None else f"{value['mean_blocks']:.1f}"
    return f"{average} ({100 * value['soon']['share']:.0f} %; {value['num_never']})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
