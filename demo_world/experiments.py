"""What is filmed and how it is summed up: steady clips, prompt switches, long sessions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any, TypeVar

from cascade_core.config import SwitchMode
from demo_world.clips import Clip, Take
from demo_world.rows import Row
from demo_world.score import Scores, judge
from demo_world.statistics import mean, paired_shares, paired_values, share
from demo_world.world import BACKGROUNDS, COLOURS, FPS, MOTIONS, SHAPES, Scene, block_frames, describe

T = TypeVar("T")
Summary = dict[str, Any]

ROUND = 84
"""Scenes in which all values are equally frequent: the least common multiple of their counts."""
STEADY_BLOCKS = 5
SWITCH_BLOCK, SWITCH_CLIP_BLOCKS, SETTLED_BLOCKS = 4, 10, 3
"""The block from which the second prompt is asked for; the clip's length; those scored as settled."""
LONG_S, LONGEST_S = 60, 600
DRIFT_BLOCKS = 7
"""Compared at either end of a long clip: 5 seconds."""
PROMPT = ("colour", "shape", "motion", "background")
"""What a prompt says."""
ATTRIBUTES = (*PROMPT, "one_object")
SOON = 2
"""Blocks after the switch within which the new prompt should show."""


def even_scenes(random: Random) -> list[Scene]:
    """ROUND scenes in which every value of every attribute is as frequent as any other, and nearly so among
    the first of them."""

    def even(values: Sequence[T]) -> list[T]:
        return [value for _ in range(ROUND // len(values)) for value in random.sample(values, len(values))]

    columns = even(tuple(COLOURS)), even(SHAPES), even(MOTIONS), even(tuple(BACKGROUNDS))
    return [Scene(*row) for row in zip(*columns, strict=True)]


def numbered(count: int, make_round: Callable[[int], list[T]]) -> list[T]:
    """The first takes of endless rounds: more clips of a later evaluation begin with these."""
    return [take for number in range(-(-count // ROUND)) for take in make_round(number)][:count]


def steady_takes(
    count: int, num_blocks: int = STEADY_BLOCKS, stretches: tuple[range, ...] = ()
) -> list[Take]:
    """One prompt for each clip; seeds differ between clips."""

    def one_round(number: int) -> list[Take]:
        random = Random(f"steady {number}")
        return [
            Take(
                {0: scene},
                {0: describe(scene, random)},
                number * ROUND + index,
                num_blocks,
                stretches=stretches,
            )
            for index, scene in enumerate(even_scenes(random))
        ]

    return numbered(count, one_round)


def drift_takes(count: int, seconds: int) -> list[Take]:
    """Long clips of one prompt, of which both ends are looked at."""
    num_blocks = -(-seconds * FPS // block_frames(1))
    return steady_takes(
        count, num_blocks, (range(DRIFT_BLOCKS), range(num_blocks - DRIFT_BLOCKS, num_blocks))
    )


def switch_takes(count: int, mode: SwitchMode) -> list[Take]:
    """Two scenes for each clip, unlike in one attribute at least."""

    def one_round(number: int) -> list[Take]:
        random = Random(f"switch {number}")
        takes = []
        for index, (before, after) in enumerate(unlike_pairs(random)):
            scenes = {0: before, SWITCH_BLOCK: after}
            prompts = {block: describe(scene, random) for block, scene in scenes.items()}
            takes.append(Take(scenes, prompts, number * ROUND + index, SWITCH_CLIP_BLOCKS, mode))
        return takes

    return numbered(count, one_round)


def unlike_pairs(random: Random) -> list[tuple[Scene, Scene]]:
    befores, afters = even_scenes(random), even_scenes(random)
    while any(pair[0] == pair[1] for pair in zip(befores, afters, strict=True)):
        afters = even_scenes(random)
    return list(zip(befores, afters, strict=True))


def record(clip: Clip) -> Row:
    """What the sums need of a clip."""
    scenes = [asdict(scene) for scene in clip.take.scenes.values()]
    row: Row = {"seed": clip.take.seed, "prompts": [*clip.take.prompts.values()], "scenes": scenes}
    if clip.take.stretches:
        scene = clip.take.scenes[0]
        first, last = (asdict(judge(picture.track, scene)) for picture in clip.pictures)
        return row | {"first": first, "last": last}
    if len(scenes) == 1:
        return row | {"scores": asdict(clip.scores(clip.take.scenes[0]))}
    settled = clip.scores(clip.take.scenes[SWITCH_BLOCK], SWITCH_CLIP_BLOCKS - SETTLED_BLOCKS)
    return row | {
        "touched": clip.receipts[0].first_block_touched,
        "shown": shown_blocks(clip),
        "settled": asdict(settled),
        "jump": clip.scores(clip.take.scenes[0]).jump,
    }


def shown_blocks(clip: Clip) -> dict[str, int | None]:
    """The first block, from the first touched on, in which each changed attribute and the whole prompt show.

    None: it never does. Attributes that the switch leaves as they are have no entry.
    """
    before, after = clip.take.scenes[0], clip.take.scenes[SWITCH_BLOCK]
    touched = clip.receipts[0].first_block_touched
    blocks = range(touched, clip.take.num_blocks)
    right = {block: clip.scores(after, block, block + 1).right() for block in blocks}
    changed = [name for name in PROMPT if getattr(before, name) != getattr(after, name)]
    wanted = {name: [name] for name in changed} | {"prompt": [*PROMPT]}
    return {
        key: next((block for block in blocks if all(right[block][name] for name in names)), None)
        for key, names in wanted.items()
    }


def sum_up_steady(rows: Mapping[int, Row], baseline: Mapping[int, Row]) -> Summary:
    """Shares of clips that are right, and the jump; compared with the same clips of the baseline."""
    jumps, others = (
        {number: row["scores"]["jump"] for number, row in some.items()} for some in (rows, baseline)
    )
    common = sorted(jumps.keys() & others.keys())
    jump = mean([*jumps.values()])
    if common:
        jump["paired"] = paired_values([jumps[i] for i in common], [others[i] for i in common])
    return shares(rows, baseline, "scores") | {"jump": jump}


def sum_up_switches(rows: Mapping[int, Row], baseline: Mapping[int, Row]) -> Summary:
    """When the new prompt shows, counted from the first touched block and from the one asked for; and what
    shows in the end."""
    columns = ("prompt", *PROMPT)
    asked, touched = (lambda row: SWITCH_BLOCK), (lambda row: row["touched"])
    soon = [{number: _soon(row) for number, row in some.items()} for some in (rows, baseline)]
    return {
        "since_touched": {name: _delays(rows.values(), touched, name) for name in columns},
        "since_asked": {name: _delays(rows.values(), asked, name) for name in columns},
        "soon": _paired_share(*soon),
        "settled": shares(rows, baseline, "settled"),
        "jump": mean([row["jump"] for row in rows.values()]),
    }


def _soon(row: Row) -> bool:
    """Whether the whole prompt shows within SOON blocks of the one asked for."""
    shown = row["shown"]["prompt"]
    return shown is not None and shown <= SWITCH_BLOCK + SOON


def _delays(rows: Iterable[Row], origin: Callable[[Row], int], name: str) -> Summary:
    """Blocks from each origin to where the attribute shows, over the clips where it changed."""
    delays = [
        None if (block := row["shown"][name]) is None else block - origin(row)
        for row in rows
        if name in row["shown"]
    ]
    known = [delay for delay in delays if delay is not None]
    return {
        "soon": share([delay is not None and delay <= SOON for delay in delays]),
        "mean_blocks": sum(known) / len(known) if known else None,
        "num_never": delays.count(None),
    }


def sum_up_drift(rows: Mapping[int, Row], baseline: Mapping[int, Row]) -> Summary:
    """Shares of right frames (motion: steps) in the first and the last seconds of each clip, the change, and
    the last ones against the same clips of the baseline."""
    common = sorted(rows.keys() & baseline.keys())
    summary: Summary = {"num": len(rows)}
    for name in (*ATTRIBUTES, "jump"):
        first, last = ([row[end][name] for row in rows.values()] for end in ("first", "last"))
        change = [after - before for before, after in zip(first, last, strict=True)]
        summary[name] = {"first": mean(first), "last": mean(last), "change": mean(change)}
        if common:
            here, there = ([some[i]["last"][name] for i in common] for some in (rows, baseline))
            summary[name]["paired"] = paired_values(here, there)
    summary["by"] = _by_value(
        rows, lambda some: {name: mean([row["last"][name] for row in some]) for name in ATTRIBUTES}
    )
    return summary


def shares(rows: Mapping[int, Row], baseline: Mapping[int, Row], part: str) -> Summary:
    """Shares of the rows whose scores of that part are right: all, by value, and against the baseline."""

    def right(row: Row) -> dict[str, bool]:
        scores = Scores(**row[part]).right()
        return scores | {"prompt": all(scores[name] for name in PROMPT)}

    here, there = ({number: right(row) for number, row in some.items()} for some in (rows, baseline))
    names = ("prompt", *ATTRIBUTES)
    summary: Summary = {
        name: _paired_share(
            {number: row[name] for number, row in here.items()},
            {number: row[name] for number, row in there.items()},
        )
        for name in names
    }
    summary["by"] = _by_value(
        rows, lambda some: {name: share([right(row)[name] for row in some]) for name in names}
    )
    return summary


def _paired_share(here: Mapping[int, bool], there: Mapping[int, bool]) -> Summary:
    summary = share([*here.values()])
    if common := sorted(here.keys() & there.keys()):
        summary["paired"] = paired_shares([here[i] for i in common], [there[i] for i in common])
    return summary


def _by_value(rows: Mapping[int, Row], sum_up: Callable[[Sequence[Row]], Summary]) -> Summary:
    """Sums over the clips of each colour, shape, motion and background, as the last prompt asks for it."""
    groups: dict[str, dict[str, list[Row]]] = {name: {} for name in PROMPT}
    for row in rows.values():
        for name, values in groups.items():
            values.setdefault(row["scenes"][-1][name], []).append(row)
    return {
        name: {value: sum_up(some) for value, some in sorted(values.items())}
        for name, values in groups.items()
    }
