"""Which motion a centroid's steps show: each motion predicts every step, and the nearest prediction wins."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from demo_world.world import HEADINGS, MOTIONS, RADIUS, SIZE, SPEED, TURN, Motion

Floats = NDArray[np.float64]

TOLERANCE = SPEED / 2
"""Pixels that a step may differ from the predicted one: 29 degrees, or half the speed."""
ROUND_PIECE = 24
"""Steps after which the circling motion's phase is fitted anew: half a round."""
WALL_MARGIN = 6.0
"""Pixels that a bouncing shape may go into the wall before it must have turned round."""


def steps(places: Floats) -> Floats:
    """Moves [T - 1, 2] between neighbouring places [T, 2], the short way round the torus."""
    return (np.diff(places, axis=0) + SIZE / 2) % SIZE - SIZE / 2


def agreement(places: Floats, motion: Motion) -> float:
    """Share of the steps between places [T, 2] that the motion predicts; 0 where another fits better."""
    if motion != nearest_motion(places):
        return 0.0
    return float(np.mean(step_errors(places, motion) <= TOLERANCE))


def nearest_motion(places: Floats) -> Motion:
    """The motion whose steps differ least on average; one wild step counts as SPEED, not more."""

    def error(motion: Motion) -> float:
        return float(np.minimum(step_errors(places, motion), SPEED).mean())

    return min(MOTIONS, key=error)


def step_errors(places: Floats, motion: Motion) -> Floats:
    """Pixels [T - 1] between the measured steps and those that the motion predicts, at most SIZE."""
    moves = steps(places)
    known = ~np.isnan(moves).any(axis=-1)
    errors = np.full(len(moves), float(SIZE))
    if known.any() and not (motion == "bounce" and _leaves(places, moves)):
        predicted = _predict(motion, np.nan_to_num(moves), places[:-1])
        errors[known] = np.linalg.norm(moves - predicted, axis=-1)[known]
    return errors


def _predict(motion: Motion, moves: Floats, starts: Floats) -> Floats:
    """The steps [N, 2] that a motion would make; what it leaves open is fitted to the moves."""
    if motion == "still":
        return np.zeros_like(moves)
    if motion == "bounce":
        return _bounce(moves, starts)
    if motion == "circle":
        num_pieces = -(-len(moves) // ROUND_PIECE)
        return np.concatenate([_circle(piece) for piece in np.array_split(moves, num_pieces)])
    return np.broadcast_to(SPEED * np.array(HEADINGS[motion]), moves.shape)


def _circle(moves: Floats) -> Floats:
    """Steps that turn by TURN each, at the phase that fits best."""
    turned = np.exp(1j * TURN * np.arange(len(moves)))
    phase = np.angle(((moves[:, 0] + 1j * moves[:, 1]) / turned).sum())
    fitted = SPEED * np.exp(1j * phase) * turned
    return np.stack([fitted.real, fitted.imag], axis=-1)


def _leaves(places: Floats, moves: Floats) -> bool:
    """Whether it crosses the edge at an ordinary pace, which what bounces never does."""
    wraps = (abs(np.diff(places, axis=0)) > SIZE / 2).any(axis=-1)
    return bool((wraps & (np.linalg.norm(moves, axis=-1) < 2 * SPEED)).any())


def _bounce(moves: Floats, starts: Floats) -> Floats:
    """Diagonal steps that keep their signs for a while, and that never lead on into a wall."""
    signs = np.where(ndimage.median_filter(moves, (5, 1), mode="nearest") < 0, -1.0, 1.0)
    inside = np.nan_to_num(starts, nan=SIZE / 2)
    signs = np.where(inside < RADIUS - WALL_MARGIN, 1.0, signs)
    signs = np.where(inside > SIZE - RADIUS + WALL_MARGIN, -1.0, signs)
    return np.asarray(signs * SPEED / np.sqrt(2))
