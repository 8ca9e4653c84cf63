"""The judge calls the world's own clips right, also degraded ones, and wrong clips wrong."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from demo_world.motion import nearest_motion
from demo_world.score import UNKNOWN, judge, measure
from demo_world.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZE,
    SPEED,
    Frames,
    Motion,
    Scene,
    Shape,
    World,
    block_frames,
    draw,
)

SCENE = Scene("red", "square", "right", "gray")


def clip(scene: Scene, num_blocks: int = 2, seed: int = 0) -> Frames:
    return World(seed).video([scene] * num_blocks)


def wrong(frames: Frames, scene: Scene = SCENE) -> set[str]:
    return {name for name, is_right in judge(measure(frames), scene).right().items() if not is_right}


def intact(frames: Frames) -> Frames:
    return frames


def noisy(frames: Frames) -> Frames:
    noise = np.random.default_rng(0).normal(0, 12, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def blurred(frames: Frames) -> Frames:
    return ndimage.gaussian_filter(frames.astype(float), (0, 2.5, 2.5, 0), mode="wrap").astype(np.uint8)


def coarse(frames: Frames) -> Frames:
    side = round(SIZE * 0.4)
    small = [Image.fromarray(picture).resize((side, side)) for picture in frames]
    return np.stack([np.array(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for picture in small])


def pale(frames: Frames) -> Frames:
    return (0.8 * frames + 25).astype(np.uint8)


DEGRADATIONS = [intact, noisy, blurred, coarse, pale]


@pytest.mark.parametrize("degrade", DEGRADATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_worlds_own_clips_are_right(shape: Shape, degrade: Callable[[Frames], Frames]) -> None:
    looks = list(product(COLOURS, BACKGROUNDS))
    for index, motion in enumerate(MOTIONS):
        colour, background = looks[(5 * index + 8 * SHAPES.index(shape)) % len(looks)]
        scene = Scene(colour, shape, motion, background)
        track = measure(degrade(clip(scene, 2, seed=index)))
        for first, last in [(0, 9), (9, 21), (0, 21)]:
            scores = judge(track, scene, first, last)
            assert all(scores.right().values()), (scene, first, last, scores)
            assert scores.jump < 0.5


@pytest.mark.parametrize(("colour", "background"), list(product(COLOURS, BACKGROUNDS)))
def test_every_pair_of_colours(colour: str, background: str) -> None:
    scene = Scene(colour, "triangle", "still", background)
    for degrade in DEGRADATIONS:
        assert not wrong(degrade(World(1).frames(scene, 2)), scene)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_minute_of_every_motion(motion: Motion) -> None:
    world = World(5)
    path = np.stack([world._next_place(motion) for _ in range(960)])
    path += np.random.default_rng(0).normal(0, 0.2, path.shape)
    windows = [path[first : first + 80] for first in range(0, 960, 80)]
    assert {nearest_motion(window % SIZE) for window in windows} == {motion}


@pytest.mark.parametrize("shown", MOTIONS)
def test_one_motion_is_not_another(shown: Motion) -> None:
    track = measure(blurred(clip(replace(SCENE, motion=shown), 2, seed=3)))
    for asked in MOTIONS:
        right = judge(track, replace(SCENE, motion=asked)).right()
        assert [name for name, is_right in right.items() if not is_right] == (
            [] if asked == shown else ["motion"]
        )


@pytest.mark.parametrize(
    "change",
    [{"shape": "circle"}, {"shape": "triangle"}, {"colour": "purple"}, {"background": "sand"}],
)
def test_another_look_is_wrong(change: dict[str, str]) -> None:
    assert wrong(noisy(clip(replace(SCENE, **change)))) == set(change)


def test_circling_the_other_way_is_wrong() -> None:
    scene = replace(SCENE, motion="circle")
    assert wrong(clip(scene)[::-1], scene) == {"motion"}
    assert wrong(clip(scene)[:, ::-1], scene) == {"motion"}


def test_a_diagonal_that_passes_the_walls_does_not_bounce() -> None:
    path = SIZE / 2 + np.arange(60)[:, None] * np.full(2, SPEED / np.sqrt(2))
    scene = replace(SCENE, motion="bounce")
    assert wrong(draw(scene, path % SIZE), scene) == {"motion"}


def test_two_objects() -> None:
    frames, others = clip(SCENE), clip(SCENE, seed=1)
    both = np.where(frames == frames[0, 0, 0], np.roll(others, 40, axis=1), frames)
    assert "one_object" in wrong(both)


def test_a_ghost_of_another_colour_is_a_second_object() -> None:
    ghost = np.roll(clip(replace(SCENE, colour="yellow")), 40, axis=1).astype(float)
    frames = clip(SCENE)
    mixed = np.where(frames == frames[0, 0, 0], 0.4 * frames + 0.6 * ghost, frames).astype(np.uint8)
    assert "one_object" in wrong(mixed)


def test_a_jump_is_measured_and_spoils_little_else() -> None:
    frames = clip(SCENE)
    frames[10:] = np.roll(frames[10:], 30, axis=1)
    scores = judge(measure(frames), SCENE)
    assert all(scores.right().values())
    assert scores.jump == pytest.approx(np.hypot(30, SPEED) - SPEED, abs=0.3)


def test_an_object_in_two_halves_at_the_edge_is_one() -> None:
    frames = draw(SCENE, np.array([[0.0, 50.0], [SPEED, 50.0], [2 * SPEED, 50.0]]))
    assert not wrong(frames)


def test_half_an_object_is_none() -> None:
    frames = draw(SCENE, np.full((1, 2), SIZE / 2))
    frames[:, :, : SIZE // 2 + 3] = BACKGROUNDS["gray"]
    assert measure(frames).num_objects[0] == 0


def test_an_empty_picture_has_no_object() -> None:
    track = measure(np.full((9, SIZE, SIZE, 3), 128, np.uint8))
    assert set(track.shapes) == set(track.colours) == {UNKNOWN}
    assert set(track.backgrounds) == {"gray"}
    scores = judge(track, SCENE)
    assert scores.right() == {
        "colour": False,
        "shape": False,
        "background": True,
        "one_object": False,
        "motion": False,
    }
    assert scores.jump > SIZE / 2


def test_noise_alone_is_nothing() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (block_frames(0), SIZE, SIZE, 3), np.uint8)
    assert {"colour", "shape", "one_object", "motion"} <= wrong(frames)


def test_one_bad_frame_is_forgiven() -> None:
    frames = clip(SCENE, 1)
    frames[4] = 128
    assert not wrong(frames)
