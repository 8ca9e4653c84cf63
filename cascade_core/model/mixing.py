"""Embeddings between embeddings: pure functions on NumPy arrays, so that every machine mixes alike.

Prompts have different numbers of tokens. The transformer pads each embedding with zero rows, and attends to
them, so what is mixed are padded embeddings: a row that one prompt lacks is zero there.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cascade_core.prompts import Interpolation

Array = NDArray[np.float32]
LEAST_SINE = 1e-4
"""Rows as parallel, or as opposite, as that have no arc between them worth the name."""


def mix(embeddings: Sequence[Array], weights: Sequence[float]) -> Array:
    """The weighted mean [num_tokens, dim] of embeddings [num_tokens, dim] of any lengths; weights count in
    proportion to their sum. One embedding is left as it is."""
    if len(embeddings) == 1:
        return embeddings[0]
    shares = np.asarray(weights, dtype=np.float64)
    shares /= shares.sum()
    padded = _padded(*embeddings)
    return _single(np.tensordot(shares, np.stack(padded), 1))


def between(start: Array, end: Array, share: float, interpolation: Interpolation) -> Array:
    """The embedding [num_tokens, dim] that is `share` (0..1) of the way from `start` to `end`.

    linear: their mean, weighted so. slerp: each row's direction turns along the shortest arc while its length
    changes linearly. Rows without an arc are mixed linearly: where one is zero (the other comes or goes in
    its own direction), and where both are parallel or opposite.
    Source of the arc: Shoemake 1985, "Animating rotation with quaternion curves".
    """
    one, other = _padded(start, end)
    linear = (1 - share) * one + share * other
    if interpolation == "linear":
        return _single(linear)
    lengths = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other)]
    product = lengths[0] * lengths[1]  # [num_tokens, 1]
    cosine = np.clip((one * other).sum(1, keepdims=True) / np.where(product == 0, 1, product), -1, 1)
    angle, sine = np.arccos(cosine), np.sqrt(1 - cosine**2)
    has_arc = (product > 0) & (sine > LEAST_SINE)  # [num_tokens, 1]
    length = (1 - share) * lengths[0] + share * lengths[1]

    scales = [
        np.sin(part * angle) / np.where(has_arc, norm * sine, 1)
        for part, norm in zip((1 - share, share), lengths, strict=True)
    ]
    turned = length * (scales[0] * one + scales[1] * other)
    return _single(np.where(has_arc, turned, linear))


def _padded(*embeddings: Array) -> list[NDArray[np.float64]]:
    """All with the rows of the longest."""
    most = max(len(rows) for rows in embeddings)
    return [np.pad(rows.astype(np.float64), ((0, most - len(rows)), (0, 0))) for rows in embeddings]


def _single(rows: NDArray[np.float64]) -> Array:
    return rows.astype(np.float32)
