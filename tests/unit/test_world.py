"""The synthetic world moves and speaks as it says."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest

from demo_world.motion import steps
from demo_world.world import (
    BACKGROUNDS,
    COLOURS,
    JITTER,
    MOTIONS,
    RADIUS,
    SHAPES,
    SIZE,
    SPEED,
    TURN,
    Motion,
    Scene,
    Shape,
    World,
    coverage,
    describe,
    random_scene,
    random_script,
)

RED_CIRCLE = Scene("red", "circle", "left", "white")


def places(motion: Motion, count: int, seed: int = 0) -> np.ndarray:
    world = World(seed)
    return np.stack([world._next_place(motion) for _ in range(count)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", [(48.0, 48.0), (0.0, 0.0), (95.3, 20.7)])
def test_every_shape_covers_a_circles_area_wherever_it_is(shape: Shape, place: tuple[float, float]) -> None:
    cover = coverage(shape, np.array([place]))
    assert cover.sum() == pytest.approx(np.pi * RADIUS**2, rel=0.02)


def test_pictures_of_a_script() -> None:
    frames = World(0).video([RED_CIRCLE] * 3)
    assert frames.shape == (9 + 12 + 12, SIZE, SIZE, 3)
    assert frames.dtype == np.uint8
    assert tuple(frames[0, 48, 48]) == COLOURS["red"]
    assert tuple(frames[0, 0, 0]) == BACKGROUNDS["white"]


def test_a_seed_is_a_clip() -> None:
    assert (World(3).frames(RED_CIRCLE, 4) == World(3).frames(RED_CIRCLE, 4)).all()
    assert (World(3).frames(RED_CIRCLE, 4) != World(4).frames(RED_CIRCLE, 4)).any()


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_clip_starts_in_the_middle_and_keeps_its_speed(motion: Motion) -> None:
    track = places(motion, 100)
    assert abs(track[0] - SIZE / 2).max() <= JITTER
    speeds = np.linalg.norm(steps(track), axis=1)
    assert speeds == pytest.approx(0 if motion == "still" else SPEED)


def test_the_circling_shape_turns_clockwise() -> None:
    moves = steps(places("circle", 49))
    headings = np.unwrap(np.arctan2(moves[:, 1], moves[:, 0]))  # y points down
    assert np.diff(headings) == pytest.approx(TURN)


def test_the_bouncing_shape_stays_inside() -> None:
    track = places("bounce", 400)
    assert track.min() > RADIUS - SPEED
    assert track.max() < SIZE - RADIUS + SPEED


def test_nothing_jumps_where_the_scene_changes() -> None:
    world = World(1)
    track = np.stack([world._next_place(motion) for motion in MOTIONS for _ in range(30)])
    assert np.linalg.norm(steps(track), axis=1).max() <= SPEED + 1e-9


def test_prompts_name_every_attribute() -> None:
    scene = Scene("purple", "square", "up", "gray")
    assert describe(scene) == "a purple square moves up on a gray background"
    wordings = {describe(scene, Random(seed)) for seed in range(50)}
    assert len(wordings) > 10


def test_scripts_change_at_the_rate_asked_for() -> None:
    script = random_script(Random(0), 2000, change=0.35)
    changes = np.mean([before != after for before, after in pairwise(script)])
    assert 0.2 < changes < 0.35  # some new attributes equal the old ones
    assert len({random_scene(Random(seed)) for seed in range(100)}) > 80
