"""Embeddings between embeddings: SciPy's and torch's answers, unequal lengths, rows of zeros."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial import geometric_slerp

from cascade_core.model.mixing import between, mix

Array = NDArray[np.float32]
SHARES = (0.2, 0.5, 0.9)


def embedding(num_tokens: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((num_tokens, 12)).astype(np.float32)


def padded(rows: Array, num_tokens: int) -> Array:
    return np.concatenate([rows, np.zeros((num_tokens - len(rows), rows.shape[1]), np.float32)])


@pytest.mark.parametrize("share", SHARES)
def test_linear_is_torchs_lerp_of_the_padded(share: float) -> None:
    short, long = embedding(3), embedding(7, seed=1)
    expected = torch.lerp(torch.from_numpy(padded(short, 7)), torch.from_numpy(long), share)
    np.testing.assert_allclose(between(short, long, share, "linear"), expected, atol=1e-6)
    np.testing.assert_allclose(between(long, short, 1 - share, "linear"), expected, atol=1e-6)


@pytest.mark.parametrize("share", SHARES)
def test_slerp_is_scipys_by_row_with_lengths_that_change_evenly(share: float) -> None:
    one, other = embedding(5), embedding(5, seed=1)
    actual = between(one, other, share, "slerp")
    for row, start, end in zip(actual, one.astype(float), other.astype(float), strict=True):
        lengths = np.linalg.norm(start), np.linalg.norm(end)
        expected = geometric_slerp(start / lengths[0], end / lengths[1], [share])[0]
        length = (1 - share) * lengths[0] + share * lengths[1]
        np.testing.assert_allclose(row, length * expected, atol=1e-5)


def test_slerp_keeps_lengths_where_linear_shrinks() -> None:
    one, other = embedding(5), embedding(5, seed=1)
    lengths = [np.linalg.norm(between(one, other, 0.5, how), axis=1) for how in ("linear", "slerp")]
    assert (lengths[0] < 0.85 * lengths[1]).all()


@pytest.mark.parametrize("share", SHARES)
def test_slerp_of_a_row_that_one_side_lacks_grows_in_its_own_direction(share: float) -> None:
    short, long = embedding(3), embedding(7, seed=1)
    np.testing.assert_allclose(between(short, long, share, "slerp")[3:], share * long[3:], atol=1e-6)
    np.testing.assert_allclose(between(long, short, share, "slerp")[3:], (1 - share) * long[3:], atol=1e-6)


def test_slerp_without_an_arc_is_linear() -> None:
    rows = embedding(4)
    for factor in (1.0, 2.5, -1.0, 0.0):
        other = np.float32(factor) * rows
        expected = between(rows, other, 0.25, "linear")
        np.testing.assert_allclose(between(rows, other, 0.25, "slerp"), expected, atol=1e-6)


def test_a_mix_is_the_weighted_mean_of_the_padded() -> None:
    rows = [embedding(length, seed=length) for length in (2, 6, 4)]
    actual = mix(rows, [1, 2, 5])
    expected = (padded(rows[0], 6) + 2 * rows[1] + 5 * padded(rows[2], 6)) / 8
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_allclose(mix(rows, [0.1, 0.2, 0.5]), expected, atol=1e-6)  # in proportion
    assert actual.dtype == np.float32
    assert mix(rows[:1], [0.3]) is rows[0]
