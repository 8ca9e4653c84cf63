"""What `demo_world.transitions` measures: pictures drawn by the world itself, whose answer is known."""

import numpy as np
import pytest

from demo_world.transitions import NUM_BLOCKS, SWITCHED_AT, object_colour, pairs, seen, sum_up
from demo_world.world import COLOURS, Scene, draw

NUM_FRAMES = 12 * NUM_BLOCKS - 3
PLACES = np.full((NUM_FRAMES, 2), 48.0)


def test_the_way_from_one_colour_to_the_other_is_told_by_block() -> None:
    red, blue = (Scene(colour, "circle", "right", "gray") for colour in ("red", "blue"))
    scenes = red, blue  # halfway from some colours to others lies the background's gray
    frames, other = (draw(scene, PLACES) for scene in scenes)
    half = (frames.astype(float) + other) / 2
    switched = 12 * SWITCHED_AT - 3
    frames[switched : switched + 24] = half[:24].astype(np.uint8)
    frames[switched + 24 :] = other[switched + 24 :]
    row = seen(frames, scenes)
    wanted = [0.0] * SWITCHED_AT + [0.5] * 2 + [1.0] * (NUM_BLOCKS - SWITCHED_AT - 2)
    assert row["way_gone"] == pytest.approx(wanted, abs=0.02)
    assert row["named"][0] == row["named"][-1] == 1
    figures = sum_up([row | {"receipt": (5, 6, 7)}])
    assert figures["largest_step"] == pytest.approx(0.5, abs=0.02)
    assert figures["receipt"] == [5, 6, 7]


def test_the_colour_is_the_objects() -> None:
    scene, _ = next(pairs(1))
    assert np.abs(object_colour(draw(scene, PLACES[:1])[0]) - COLOURS[scene.colour]).max() < 2
    assert np.isnan(object_colour(np.full((96, 96, 3), 128, np.uint8))).all()


def test_every_pair_of_colours_comes_before_one_comes_again() -> None:
    scenes = list(pairs(30))
    assert len({(one.colour, other.colour) for one, other in scenes}) == 30
    assert all(one.colour != other.colour and one.shape == other.shape for one, other in scenes)
