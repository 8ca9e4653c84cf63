"""What is to be seen in pictures of the world, by image analysis alone, and whether it is what was asked.

track = measure(frames)
scores = judge(track, scene, first=9, last=21)
"""

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from demo_world.motion import agreement, steps
from demo_world.world import BACKGROUNDS, COLOURS, RADIUS, SHAPES, SIZE, SPEED, Frames, Scene, coverage

Floats = NDArray[np.float64]

BLUR = 1.0
"""Pixels (sigma) that pictures and templates are blurred by, against noise."""
MIN_CONTRAST = 30.0
"""RGB distance from the background below which there is no object."""
MASK_LEVEL = 0.35
"""Share of the object's contrast above which a pixel belongs to an object: a ghost that pale counts."""
MIN_OBJECT = 0.05
"""Share of the object's proper area below which a spot is not counted as an object."""
AREA_RANGE = (0.5, 1.7)
"""Share of the proper area that one object may have."""
MAX_COLOUR_ERROR = 75.0
"""RGB distance to the nearest palette entry above which a colour has no name (entries are 109 apart)."""
MIN_MATCH = 0.8
"""Overlap (soft intersection over union) with the best template below which a shape has no name."""
MIN_SHARE = 0.8
"""Share of the frames that must be as asked for a stretch to be right."""
MIN_MOTION_SHARE = 0.7
"""The same for steps between frames, where one bad frame spoils two."""
UNKNOWN = "?"


@dataclass(frozen=True)
class Track:
    """What was measured in T frames; names are UNKNOWN and places NaN where nothing was recognised."""

    colours: list[str]
    shapes: list[str]
    backgrounds: list[str]
    num_objects: NDArray[np.int64]
    """[T]; 0 also where the largest object's area is out of AREA_RANGE."""
    places: Floats
    """[T, 2] centroid (x, y) in pixels of the largest object, on the torus."""


@dataclass(frozen=True)
class Scores:
    """One stretch against the scene asked for: shares 0..1 of its frames (motion: of its steps)."""

    colour: float
    shape: float
    background: float
    one_object: float
    motion: float
    """0 where another motion fits the steps better."""
    jump: float
    """Pixels beyond SPEED that the centroid moved at most between neighbouring frames; the world's own: 0."""

    def right(self) -> dict[str, bool]:
        """By attribute, whether the stretch is as asked."""
        limits = {item.name: MIN_SHARE for item in fields(self) if item.name != "jump"}
        limits["motion"] = MIN_MOTION_SHARE
        return {name: getattr(self, name) >= limit for name, limit in limits.items()}


@dataclass(frozen=True)
class _Look:
    """One frame, measured."""

    colour: str
    shape: str
    background: str
    num_objects: int
    place: tuple[float, float]


def measure(frames: Frames) -> Track:
    """Find the object in every frame of uint8 [T, SIZE, SIZE, 3]."""
    smooth = ndimage.gaussian_filter(frames.astype(np.float32), (0, BLUR, BLUR, 0), mode="wrap")
    looks = [_look(picture) for picture in smooth]
    return Track(
        colours=[look.colour for look in looks],
        shapes=[look.shape for look in looks],
        backgrounds=[look.background for look in looks],
        num_objects=np.array([look.num_objects for look in looks], np.int64),
        places=np.array([look.place for look in looks]).reshape(-1, 2),
    )


def judge(track: Track, scene: Scene, first: int = 0, last: int | None = None) -> Scores:
    """Score frames first..last - 1, which should all show the scene.

    The step into the first frame belongs to the stretch too, as in the world, where a motion begins with
    a step. A stretch needs at least two frames.
    """
    span = slice(first, last)
    places = track.places[max(first - 1, 0) : last]
    return Scores(
        colour=_share(track.colours[span], scene.colour),
        shape=_share(track.shapes[span], scene.shape),
        background=_share(track.backgrounds[span], scene.background),
        one_object=float(np.mean(track.num_objects[span] == 1)),
        motion=agreement(places, scene.motion),
        jump=_largest_jump(steps(places)),
    )


def _share(names: list[str], wanted: str) -> float:
    return names.count(wanted) / len(names)


def _largest_jump(moves: Floats) -> float:
    """A step that cannot be measured counts as the longest there is."""
    lengths = np.nan_to_num(np.linalg.norm(moves, axis=-1), nan=SIZE / np.sqrt(2))
    return float(np.maximum(lengths - SPEED, 0).max())


def _look(picture: NDArray[np.float32]) -> _Look:
    paper = np.median(picture.reshape(-1, 3), axis=0)
    background = _nearest(paper, BACKGROUNDS)
    contrast = np.linalg.norm(picture - paper, axis=-1)
    peak = np.percentile(contrast, 97)  # a proper object covers 9 % of the pixels
    if peak < MIN_CONTRAST:
        return _Look(UNKNOWN, UNKNOWN, background, 0, (np.nan, np.nan))
    shift = _to_middle(contrast * (contrast > MASK_LEVEL * peak))
    labels, count = ndimage.label(np.roll(contrast, shift, (0, 1)) > MASK_LEVEL * peak)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = labels == 1 + sizes.argmax()
    picture = np.roll(picture, shift, (0, 1))
    ink = np.median(picture[_core(largest)], axis=0)
    axis = ink - paper
    cover = np.clip((picture - paper) @ axis / (axis @ axis), 0, 1)
    cover = cover * ndimage.binary_dilation(largest, iterations=3)
    area = cover.sum() / (np.pi * RADIUS**2)
    middle = np.array(ndimage.center_of_mass(cover))
    is_sound = AREA_RANGE[0] <= area <= AREA_RANGE[1]
    num_objects = int((sizes > MIN_OBJECT * np.pi * RADIUS**2).sum()) if is_sound else 0
    y, x = (middle + 0.5 - shift) % SIZE
    return _Look(_nearest(ink, COLOURS), _nearest_shape(cover, middle, area), background, num_objects, (x, y))


def _nearest(colour: NDArray[Any], palette: dict[str, tuple[int, int, int]]) -> str:
    errors = {name: float(np.linalg.norm(colour - np.array(entry))) for name, entry in palette.items()}
    name = min(errors, key=errors.__getitem__)
    return name if errors[name] <= MAX_COLOUR_ERROR else UNKNOWN


def _to_middle(weight: NDArray[Any]) -> tuple[int, int]:
    """The roll (rows, columns) that brings the circular centroid to the middle."""
    wave = np.exp(2j * np.pi * np.arange(SIZE) / SIZE)
    angles = [np.angle((weight.sum(1 - axis) * wave).sum()) for axis in (0, 1)]
    row, column = (round(SIZE / 2 - angle * SIZE / (2 * np.pi)) for angle in angles)
    return row, column


def _core(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its edge, which is a mixture of colours."""
    core = ndimage.binary_erosion(mask, iterations=3)
    return core if core.any() else mask


@cache
def _templates() -> dict[str, Floats]:
    """By shape, [SIZE, SIZE] coverage in the middle."""
    middle = np.full((1, 2), SIZE / 2)
    return {shape: ndimage.gaussian_filter(coverage(shape, middle)[0], BLUR) for shape in SHAPES}


def _nearest_shape(cover: NDArray[Any], middle: Floats, area: float) -> str:
    """The shape whose template overlaps most with the cover, moved to the middle at proper size."""
    scale = np.sqrt(area)
    offset = middle - scale * (SIZE - 1) / 2
    cover = ndimage.affine_transform(cover, np.array([scale, scale]), offset, order=1)
    matches = {
        shape: np.minimum(cover, template).sum() / np.maximum(cover, template).sum()
        for shape, template in _templates().items()
    }
    name = max(matches, key=matches.__getitem__)
    return name if matches[name] >= MIN_MATCH else UNKNOWN
