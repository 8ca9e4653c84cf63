"""What is filmed and how it is summed up: steady clips, prompt switches, a long session."""

from collections.abc import Sequence
from dataclasses import asdict
from random import Random
from typing import Any, TypeVar

from cascade_core.config import SwitchMode
from demo_world.clips import Clip, Take
from demo_world.score import judge
from demo_world.statistics import mean, paired_shares, paired_values, share
from demo_world.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, describe

T = TypeVar("T")
Summary = dict[str, Any]

STEADY_BLOCKS = 5
SWITCH_BLOCK, SWITCH_CLIP_BLOCKS, SETTLED_BLOCKS = 4, 10, 3
"""The block from which the second prompt is asked for; the clip's length; those scored as settled."""
PROMPT = ("colour", "shape", "motion", "background")
"""What a prompt says."""
ATTRIBUTES = (*PROMPT, "one_object")
SOON = 2
"""Blocks after the switch within which the new prompt should show."""


def even_scenes(count: int, random: Random) -> list[Scene]:
    """Scenes in which every value of every attribute is as frequent as the count allows."""

    def even(values: Sequence[T]) -> list[T]:
        repeated = [*values] * (count // len(values)) + random.sample(values, count % len(values))
        random.shuffle(repeated)
        return repeated

    columns = even(tuple(COLOURS)), even(SHAPES), even(MOTIONS), even(tuple(BACKGROUNDS))
    return [Scene(*row) for row in zip(*columns, strict=True)]


def steady_takes(num_prompts: int, num_seeds: int, num_blocks: int = STEADY_BLOCKS) -> list[Take]:
    """One prompt for each clip; seeds differ between clips."""
    random = Random(1)
    prompts = [(scene, describe(scene, random)) for scene in even_scenes(num_prompts, random)]
    return [
        Take({0: scene}, {0: prompt}, seed * num_prompts + index, num_blocks)
        for seed in range(num_seeds)
        for index, (scene, prompt) in enumerate(prompts)
    ]


def switch_takes(count: int, mode: SwitchMode) -> list[Take]:
    """Two scenes for each clip, unlike in one attribute at least."""
    random = Random(2)
    takes = []
    for seed, (before, after) in enumerate(_unlike_pairs(count, random)):
        scenes = {0: before, SWITCH_BLOCK: after}
        prompts = {block: describe(scene, random) for block, scene in scenes.items()}
        takes.append(Take(scenes, prompts, seed, SWITCH_CLIP_BLOCKS, mode))
    return takes


def _unlike_pairs(count: int, random: Random) -> list[tuple[Scene, Scene]]:
    befores, afters = even_scenes(count, random), even_scenes(count, random)
    while any(pair[0] == pair[1] for pair in zip(befores, afters, strict=True)):
        afters = even_scenes(count, random)
    return list(zip(befores, afters, strict=True))


def sum_up_steady(clips: Sequence[Clip], baseline: Sequence[Clip] | None) -> Summary:
    """Shares of clips that are right, and the jump; compared with the same clips of the baseline."""
    here, there = _steady_columns(clips), _steady_columns(baseline) if baseline else None
    jumps = here.pop("jump")
    summary: Summary = {name: share(column) for name, column in here.items()}
    summary["jump"] = mean(jumps)
    if there:
        summary["jump"]["paired"] = paired_values(jumps, there["jump"])
        for name, column in here.items():
            summary[name]["paired"] = paired_shares(column, there[name])
    summary["clips"] = [_record(clip) | asdict(clip.scores(clip.take.scenes[0])) for clip in clips]
    return summary


def _steady_columns(clips: Sequence[Clip]) -> dict[str, list[Any]]:
    scores = [clip.scores(clip.take.scenes[0]) for clip in clips]
    right = [score.right() for score in scores]
    columns: dict[str, list[Any]] = {name: [row[name] for row in right] for name in ATTRIBUTES}
    columns["prompt"] = [all(row[name] for name in PROMPT) for row in right]
    columns["jump"] = [score.jump for score in scores]
    return columns


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


def sum_up_switches(clips: Sequence[Clip]) -> Summary:
    """When the new prompt shows, counted from the first touched block and from the one asked for."""
    shown = [shown_blocks(clip) for clip in clips]
    touched = [clip.receipts[0].first_block_touched for clip in clips]
    scenes = [clip.take.scenes[SWITCH_BLOCK] for clip in clips]
    settled = [
        clip.scores(scene, SWITCH_CLIP_BLOCKS - SETTLED_BLOCKS).right()
        for clip, scene in zip(clips, scenes, strict=True)
    ]
    records = [
        _record(clip) | {"receipt": asdict(clip.receipts[0]), "shown": row}
        for clip, row in zip(clips, shown, strict=True)
    ]
    return {
        "since_touched": {name: _delays(shown, touched, name) for name in ("prompt", *PROMPT)},
        "since_asked": {
            name: _delays(shown, [SWITCH_BLOCK] * len(clips), name) for name in ("prompt", *PROMPT)
        },
        "settled": {name: share([row[name] for row in settled]) for name in ATTRIBUTES},
        "jump": mean([clip.scores(clip.take.scenes[0]).jump for clip in clips]),
        "clips": records,
    }


def _delays(shown: Sequence[dict[str, int | None]], origins: Sequence[int], name: str) -> Summary:
    """Blocks from each origin to where the attribute shows, over the clips where it changed."""
    delays = [
        None if (block := row[name]) is None else block - origin
        for row, origin in zip(shown, origins, strict=True)
        if name in row
    ]
    known = [delay for delay in delays if delay is not None]
    return {
        "soon": share([delay is not None and delay <= SOON for delay in delays]),
        "mean_blocks": sum(known) / len(known) if known else None,
        "num_never": delays.count(None),
    }


def sum_up_drift(clips: Sequence[Clip], num_frames: int) -> Summary:
    """Shares of right frames (motion: steps) in the first and the last `num_frames` of each clip."""
    stretches = [_ends(clip, num_frames) for clip in clips]
    summary: Summary = {}
    for name in (*ATTRIBUTES, "jump"):
        first, last = ([pair[end][name] for pair in stretches] for end in (0, 1))
        change = [after - before for before, after in zip(first, last, strict=True)]
        summary[name] = {"first": mean(first), "last": mean(last), "change": mean(change)}
    summary["clips"] = [
        _record(clip) | {"first": first, "last": last}
        for clip, (first, last) in zip(clips, stretches, strict=True)
    ]
    return summary


def _ends(clip: Clip, num_frames: int) -> tuple[dict[str, float], dict[str, float]]:
    end = len(clip.track.places)
    scene = clip.take.scenes[0]
    first = judge(clip.track, scene, 0, num_frames)
    return asdict(first), asdict(judge(clip.track, scene, end - num_frames, end))


def _record(clip: Clip) -> Summary:
    return {"prompts": dict(clip.take.prompts), "seed": clip.take.seed}
