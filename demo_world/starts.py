"""Clips that go on from pictures of the world: colour, shape, place and motion are kept, without a jump.

What is given is drawn by the world itself, so it is known where the object would be if the world went on.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from random import Random
from typing import Any, Literal, get_args

import numpy as np

from demo_world.clips import Clip, Take
from demo_world.experiments import ROUND, even_scenes, numbered, shares, unlike_pairs
from demo_world.motion import steps
from demo_world.rows import Row
from demo_world.score import judge, measure
from demo_world.statistics import mean, paired_values
from demo_world.world import SIZE, SPEED, Frames, Scene, World, block_frames, describe

Summary = dict[str, Any]
Beginning = Literal["clip", "switch", "picture"]
"""`clip`: it goes on under the prompt of the clip. `switch`: under another from the first block on.
`picture`: from a clip that stands still, into a motion."""
BEGINNINGS: tuple[Beginning, ...] = get_args(Beginning)
GIVEN_BLOCKS, NUM_BLOCKS = 4, 5
NEAR = SIZE / 8
"""Pixels from where the world would have it within which the object's place is kept: less than its radius."""


def start_takes(count: int, beginning: Beginning, still_blocks: int) -> list[Take]:
    """`still_blocks`: how long a picture stands still. Clips of each beginning have seeds of their own."""

    def one_round(number: int) -> list[Take]:
        random = Random(f"start {beginning} {number}")
        pairs = unlike_pairs(random) if beginning == "switch" else [(s, s) for s in even_scenes(random)]
        return [
            take(number * ROUND + index, *pair, beginning, still_blocks, random)
            for index, pair in enumerate(pairs)
        ]

    return numbered(count, one_round)


def take(
    seed: int, before: Scene, after: Scene, beginning: Beginning, still_blocks: int, random: Random
) -> Take:
    if beginning == "picture":
        before = replace(before, motion="still")
    given = (before,) * (still_blocks if beginning == "picture" else GIVEN_BLOCKS)
    words = describe(after, random)
    first = describe(before, random) if beginning == "switch" else words
    return Take({0: after}, {0: words}, seed, NUM_BLOCKS, given=given, given_prompt=first)


def record(clip: Clip) -> Row:
    """The first picture of the track is the last of those given."""
    scene, track = clip.take.scenes[0], clip.pictures[0].track
    meant = measure(continuation(clip.take)).places
    away = np.linalg.norm((track.places[1:] - meant + SIZE / 2) % SIZE - SIZE / 2, axis=-1)
    ends = np.nan_to_num(away, nan=SIZE / np.sqrt(2)).reshape(clip.take.num_blocks, -1)[:, -1]
    moves = np.nan_to_num(np.linalg.norm(steps(track.places[:2]), axis=-1), nan=SIZE / np.sqrt(2))
    return {
        "seed": clip.take.seed,
        "prompts": [clip.take.given_prompt, *clip.take.prompts.values()],
        "scenes": [asdict(clip.take.given[0]), asdict(scene)],
        "scores": asdict(judge(track, scene, first=1)),
        "seam": max(0.0, float(moves[0]) - SPEED),
        "away": [round(float(end), 2) for end in ends],
    }


def continuation(take: Take) -> Frames:
    """What the world would show after the given blocks."""
    world = World(take.seed)
    world.video(take.given)
    return world.frames(take.scenes[0], take.num_blocks * block_frames(1))


def sum_up_starts(rows: Mapping[int, Row], baseline: Mapping[int, Row]) -> Summary:
    """Shares of clips that are right, the jump at the seam, and how far the object is from its place."""
    summary = shares(rows, baseline, "scores")
    summary["seam"] = _paired(rows, baseline, lambda row: row["seam"])
    summary["away_first"] = _paired(rows, baseline, lambda row: row["away"][0])
    summary["away_last"] = _paired(rows, baseline, lambda row: row["away"][-1])
    summary["in_place"] = mean([float(row["away"][0] <= NEAR) for row in rows.values()])
    return summary


def _paired(rows: Mapping[int, Row], baseline: Mapping[int, Row], value: Callable[[Row], float]) -> Summary:
    found = mean([value(row) for row in rows.values()])
    if common := sorted(rows.keys() & baseline.keys()):
        here, there = ([value(some[number]) for number in common] for some in (rows, baseline))
        found["paired"] = paired_values(here, there)
    return found
