"""Partial attention merged by log-sum-exp, and rotary embedding, against textbook forms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cascade_core.attention.attention import attend_partial, merge
from cascade_core.attention.rope import RotaryTable, rotate, time_shift_turns
from tests.support import CPU


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One softmax over all keys, in float64; [L, H, D] in and out."""
    parts = (part.double().transpose(0, 1)[None] for part in (query, key, value))
    return F.scaled_dot_product_attention(*parts)[0].transpose(0, 1).float()


def in_parts(query: Tensor, key: Tensor, value: Tensor, sizes: list[int]) -> Tensor:
    parts = zip(key.split(sizes), value.split(sizes), strict=True)
    return merge([attend_partial(query, part) for part in parts])


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=7),
    num_queries=st.integers(1, 33),
    heads=st.integers(1, 3),
    half_dim=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_any_split_equals_attention_to_the_union(
    sizes: list[int], num_queries: int, heads: int, half_dim: int, seed: int
) -> None:
    query = random(num_queries, heads, 2 * half_dim, seed=seed)
    key, value = random(2, sum(sizes), heads, 2 * half_dim, seed=seed + 1)
    expected = whole(query, key, value)
    torch.testing.assert_close(in_parts(query, key, value, sizes), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 40.0])
@pytest.mark.parametrize("loud", [0, 1, 2])
def test_very_unequal_scores(scale: float, loud: int) -> None:
    """A part may outweigh the others by e^100 and more: nothing may overflow or vanish."""
    sizes = [5, 1, 9]
    query = random(12, 2, 16)
    key, value = random(2, 15, 2, 16, seed=1)
    parts = list(key.split(sizes))
    parts[loud] = parts[loud] * scale
    key = torch.cat(parts)
    actual = in_parts(query, key, value, sizes)
    assert actual.isfinite().all()
    torch.testing.assert_close(actual, whole(query, key, value), rtol=0, atol=1e-5)


def test_all_scores_huge_and_nearly_equal() -> None:
    """The weights then hang on the small differences of large log-sum-exps."""
    direction = random(1, 1, 16)
    query = direction.expand(4, 2, 16) * 5
    key = direction * 5 + 0.02 * random(6, 2, 16, seed=1)
    value = random(6, 2, 16, seed=2)
    actual = in_parts(query, key, value, [1, 2, 3])
    torch.testing.assert_close(actual, whole(query, key, value), rtol=0, atol=2e-5)


def test_the_order_of_the_parts_is_of_no_meaning() -> None:
    query = random(7, 2, 8)
    key, value = random(2, 12, 2, 8, seed=1)
    parts = [attend_partial(query, (k, v)) for k, v in zip(key.split(4), value.split(4), strict=True)]
    torch.testing.assert_close(merge(parts), merge(parts[::-1]), rtol=0, atol=1e-6)


def test_log_sum_exp_is_that_of_the_scaled_scores() -> None:
    query = random(5, 2, 8)
    key, value = random(2, 9, 2, 8, seed=1)
    _, lse = attend_partial(query, (key, value))
    scores = torch.einsum("lhd,shd->lhs", query, key) / 8**0.5
    torch.testing.assert_close(lse, scores.logsumexp(-1, keepdim=True))
    assert lse.dtype == torch.float32


def test_views_of_a_larger_buffer_are_attended_as_they_are() -> None:
    """The cache hands out slices; rows outside must not leak in."""
    query = random(5, 2, 8)
    buffer = random(2, 30, 2, 8, seed=1)
    buffer[:, :10] = buffer[:, 20:] = 1e4
    key, value = buffer[:, 10:20]
    actual, _ = attend_partial(query, (key, value))
    torch.testing.assert_close(actual, whole(query, key, value), rtol=0, atol=1e-5)


@given(
    half=st.integers(1, 64), angle=st.floats(-1e4, 1e4), other=st.floats(-1e4, 1e4), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_rotate_is_complex_multiplication_and_composes(
    half: int, angle: float, other: float, seed: int
) -> None:
    x = random(3, 5, 2, 2 * half, seed=seed)
    turns = random(5, 1, half, seed=seed + 1).double()

    def turned(amount: float) -> Tensor:
        pairs = torch.view_as_complex(x.double().view(3, 5, 2, half, 2))
        return torch.view_as_real(pairs * torch.exp(1j * turns * amount)).flatten(-2).float()

    def ours(x: Tensor, amount: float) -> Tensor:
        angles = turns * amount
        return rotate(x, torch.stack((angles.cos(), angles.sin()), dim=-1).float())

    torch.testing.assert_close(ours(x, angle), turned(angle), rtol=0, atol=2e-6)
    torch.testing.assert_close(ours(ours(x, angle), other), turned(angle + other), rtol=0, atol=4e-6)
    torch.testing.assert_close(ours(ours(x, angle), -angle), x, rtol=0, atol=4e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compiled_rotates_alike(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does without complex numbers."""
    x, turns = random(2, 5, 3, 24).to(dtype), RotaryTable(1, 1, 5, 24, CPU).turns([7, 9])
    expected = rotate(x, turns)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, turns), expected)


@pytest.mark.parametrize("head_dim", [24, 128])
@pytest.mark.parametrize(("start", "shift"), [(0, 1), (3, 9), (0, 29_997), (12_000, -11_988)])
def test_a_rotated_key_moves_in_time(head_dim: int, start: int, shift: int) -> None:
    """Moving the sink: a key rotated at `start`, turned by `shift`, is a key rotated at start + shift."""
    frames, height, width = 3, 2, 3
    key = random(frames * height * width, 2, head_dim)
    before, after = RotaryTable(frames, height, width, head_dim, CPU).turns([start, start + shift])
    moved = rotate(rotate(key, before), time_shift_turns(shift, head_dim, CPU))
    torch.testing.assert_close(moved, rotate(key, after), rtol=0, atol=4e-6)


@pytest.mark.parametrize("head_dim", [24, 32, 128])
def test_angles_are_those_of_the_three_axes(head_dim: int) -> None:
    """Row-major (frame, row, column) tokens; time, height and width share the pairs as 44:42:42 of 128."""
    side = 2 * (head_dim // 6)
    widths = (head_dim - 2 * side, side, side)
    if head_dim == 128:
        assert widths == (44, 42, 42)
    cos, sin = RotaryTable(3, 2, 5, head_dim, CPU).turns([6])[0, :, 0].unbind(-1)
    for token, (frame, row, column) in enumerate(
        (f, r, c) for f in range(6, 9) for r in range(2) for c in range(5)
    ):
        angles = [
            position * 10000 ** (-2 * pair / axis)
            for position, axis in zip((frame, row, column), widths, strict=True)
            for pair in range(axis // 2)
        ]
        expected = torch.tensor(angles, dtype=torch.float64)
        torch.testing.assert_close(cos[token], expected.cos().float())
        torch.testing.assert_close(sin[token], expected.sin().float())
