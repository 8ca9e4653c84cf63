"""The world: one anti-aliased shape that moves over a plain background, and the words that describe it.

A scene changes only where a block begins. What a prompt leaves open (where exactly the shape starts) is
little on purpose: a 4-step model cannot settle a question that its first, pure-noise pass must answer.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Shape = Literal["circle", "square", "triangle"]
Motion = Literal["left", "right", "up", "down", "bounce", "circle", "still"]
Frames = NDArray[np.uint8]
"""[T, H, W, 3] RGB."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 45, 40),
    "green": (45, 165, 70),
    "blue": (45, 85, 230),
    "yellow": (245, 205, 40),
    "purple": (150, 60, 200),
    "cyan": (50, 200, 215),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (16, 16, 20),
    "gray": (128, 128, 128),
    "sand": (225, 205, 165),
}
SHAPES: tuple[Shape, ...] = get_args(Shape)
MOTIONS: tuple[Motion, ...] = get_args(Motion)

SIZE = 96
"""Pixels of a side. Straight and circling shapes leave on one side and come in on the other."""
RADIUS = 16.0
"""Pixels; every shape covers the area of a circle of this radius."""
SPEED = 2.25
"""Pixels per frame."""
TURN = 2 * math.pi / 48
"""Radians per frame of the circling motion, clockwise: three seconds a round."""
JITTER = 5.0
"""Pixels that the start may be away from the centre, in x and in y; this is what a seed decides."""
FPS = 16

DIAGONAL = math.sqrt(0.5)
HEADINGS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclass(frozen=True)
class Scene:
    """What a prompt says."""

    colour: str
    shape: Shape
    motion: Motion
    background: str


def block_frames(block: int) -> int:
    """Pictures of a block: the first latent frame of a video is one picture, every other four."""
    return 9 if block == 0 else 12


class World:
    """One endless clip: ask for frames, scene by scene."""

    def __init__(self, seed: int, *, anywhere: bool = False) -> None:
        """`anywhere` lets the shape start at any place, heading anywhere, for training the VAE."""
        random = np.random.default_rng(seed)
        spread = SIZE / 2 if anywhere else JITTER
        self._place = SIZE / 2 + random.uniform(-spread, spread, 2)
        angle = random.uniform(0, 2 * np.pi) if anywhere else 0.0
        self._heading = np.array([np.cos(angle), np.sin(angle)])
        self._motion: Motion | None = None

    def frames(self, scene: Scene, count: int) -> Frames:
        """The next `count` pictures, uint8 [count, SIZE, SIZE, 3]."""
        return draw(scene, np.stack([self._next_place(scene.motion) for _ in range(count)]))

    def video(self, script: Iterable[Scene]) -> Frames:
        """The pictures of a script that names a scene for every block from the first."""
        return np.concatenate([self.frames(scene, block_frames(i)) for i, scene in enumerate(script)])

    def _next_place(self, motion: Motion) -> NDArray[np.float64]:
        is_first, entered = self._motion is None, motion != self._motion
        self._motion = motion
        if entered:
            self._heading = _entry_heading(motion, self._heading)
        if not is_first and motion != "still":
            self._move(motion)
        return self._place.copy()

    def _move(self, motion: Motion) -> None:
        if motion == "circle":
            cos, sin = np.cos(TURN), np.sin(TURN)
            self._heading = np.array([[cos, -sin], [sin, cos]]) @ self._heading
        if motion == "bounce":
            outward = np.where(self._place < RADIUS, -1, np.where(self._place > SIZE - RADIUS, 1, 0))
            self._heading = np.where(outward * self._heading > 0, -self._heading, self._heading)
        self._place = (self._place + SPEED * self._heading) % SIZE


def _entry_heading(motion: Motion, heading: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a motion heads when it begins, given the heading (unit vector x, y) before."""
    if motion in HEADINGS:
        return np.array(HEADINGS[motion])
    if motion == "still":
        return np.array(HEADINGS["right"])  # a resting shape has forgotten where it went
    if motion == "bounce":
        return np.where(heading < -1e-6, -DIAGONAL, DIAGONAL)
    return heading


def draw(scene: Scene, places: NDArray[np.float64]) -> Frames:
    """Pictures uint8 [T, SIZE, SIZE, 3] of the scene's shape at places [T, 2] (x, y), edges wrapped."""
    cover = coverage(scene.shape, places)[..., None]
    ink, paper = np.array(COLOURS[scene.colour]), np.array(BACKGROUNDS[scene.background])
    pixels: Frames = np.rint(paper + (ink - paper) * cover).astype(np.uint8)
    return pixels


def coverage(shape: Shape, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each pixel the shape covers, 0..1, [T, SIZE, SIZE], at places [T, 2] (x, y)."""
    pixels = np.arange(SIZE) + 0.5
    offset = (pixels[None, :, None] - places[:, None, :] + SIZE / 2) % SIZE - SIZE / 2  # [T, SIZE, 2]
    return np.clip(0.5 - _distance(shape, offset[:, None, :, 0], offset[:, :, None, 1]), 0, 1)


def _distance(shape: Shape, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels outside (positive) or inside (negative) a shape at the origin, y downwards."""
    match shape:
        case "circle":
            reach, inner = np.hypot(x, y), RADIUS
        case "square":
            reach, inner = np.maximum(abs(x), abs(y)), RADIUS * math.sqrt(math.pi) / 2
        case "triangle":  # equilateral; its inradius
            reach = np.maximum(y, math.sqrt(3) / 2 * abs(x) - y / 2)
            inner = RADIUS * math.sqrt(math.pi / (3 * math.sqrt(3)))
    distance: NDArray[np.float64] = reach - inner
    return distance


WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
}
"""Other words for a shape or a colour; the first is the usual one."""

PHRASES: dict[Motion, tuple[str, ...]] = {
    "left": ("moves left", "moving left", "goes to the left", "drifts left"),
    "right": ("moves right", "moving right", "goes to the right", "drifts right"),
    "up": ("moves up", "moving up", "goes upwards", "rises"),
    "down": ("moves down", "moving down", "goes downwards", "falls"),
    "bounce": ("bounces", "bouncing", "bounces around", "bounces off the walls"),
    "circle": ("moves in a circle", "moving in circles", "goes round", "orbits"),
    "still": ("stays still", "standing still", "rests", "does not move"),
}
TEMPLATES = (
    "a {colour} {shape} {motion} on a {background} background",
    "{colour} {shape} {motion}, {background} background",
    "a {colour} {shape} {motion} over {background}",
    "on a {background} background, a {colour} {shape} {motion}",
)


def describe(scene: Scene, random: Random | None = None) -> str:
    """A prompt for the scene: the usual wording, or with `random` one of many."""

    def pick(options: tuple[str, ...]) -> str:
        return random.choice(options) if random else options[0]

    return pick(TEMPLATES).format(
        colour=pick(WORDS.get(scene.colour, (scene.colour,))),
        shape=pick(WORDS.get(scene.shape, (scene.shape,))),
        motion=pick(PHRASES[scene.motion]),
        background=pick(WORDS.get(scene.background, (scene.background,))),
    )


def random_scene(random: Random, motions: Sequence[Motion] = MOTIONS) -> Scene:
    """A scene drawn evenly; `motions` may name one more than once."""
    return Scene(
        random.choice(tuple(COLOURS)),
        random.choice(SHAPES),
        random.choice(motions),
        random.choice(tuple(BACKGROUNDS)),
    )


def random_script(
    random: Random, num_blocks: int, change: float = 0.35, motions: Sequence[Motion] = MOTIONS
) -> list[Scene]:
    """A scene for every block; with probability `change` a block begins with one to four new attributes."""
    script = [random_scene(random, motions)]
    while len(script) < num_blocks:
        scene = script[-1]
        if random.random() < change:
            new = random_scene(random, motions)
            names = random.sample(["colour", "shape", "motion", "background"], random.randint(1, 4))
            scene = replace(scene, **{name: getattr(new, name) for name in names})
        script.append(scene)
    return script
