"""The ring buffer against a dictionary that never forgets on its own."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cascade_core.attention.kv_cache import KvCache, contiguous_runs
from cascade_core.attention.rope import rotate, time_shift_turns
from cascade_core.config import TransformerConfig, WindowConfig
from cascade_core.schedule import context_blocks, recache_blocks
from tests.support import CPU

TOKENS = 2
CONFIG = TransformerConfig(dim=4, ffn_dim=4, num_heads=1, num_layers=2)


def content(layer: int, block: int, version: int) -> tuple[Tensor, Tensor]:
    """Keys and values [L, H, D] in which every number tells where it belongs."""
    base = torch.arange(TOKENS * 4, dtype=torch.float32).view(TOKENS, 1, 4) + 10 * version
    key = base + 1e5 * layer + 100 * block
    return key, -key - 1


class Naive:
    """What a session should see, by a dictionary of block -> version."""

    def __init__(self, window: WindowConfig) -> None:
        self.sink_blocks = window.sink_blocks
        self.reach = window.window_blocks - 1
        self.kept: dict[int, int] = {}
        self.end = 0

    def visible(self, oldest: int) -> list[int]:
        recent = max(oldest, self.end - self.reach)
        return sorted(block for block in self.kept if block < self.sink_blocks or block >= recent)

    def commit(self, block: int, version: int) -> None:
        self.kept[block] = version
        self.end = block + 1

    def clear_window(self, first: int) -> None:
        self.kept = {block: version for block, version in self.kept.items() if block < self.sink_blocks}
        self.end = first


class Both:
    """Cache and dictionary side by side; every step compares them."""

    def __init__(self, window: WindowConfig) -> None:
        self.window = window
        self.cache = KvCache(CONFIG, window, TOKENS, CPU, torch.float32)
        self.naive = Naive(window)
        self.version = 0

    def write(self, blocks: list[int]) -> None:
        """As a tick does: layer by layer, reading before writing; then all blocks count."""
        self.version += 1
        for layer in range(CONFIG.num_layers):
            self.compare_layer(layer, oldest=self.naive.end - self.naive.reach)
            for block in blocks:
                self.cache.write(layer, block, *content(layer, block, self.version))

    def commit(self, blocks: list[int]) -> None:
        for block in blocks:
            self.cache.commit(block)
            self.naive.commit(block, self.version)

    def recache(self) -> None:
        blocks = recache_blocks(self.window, self.naive.end)
        if not blocks:
            return
        kept = blocks if blocks[0] == 0 else blocks[self.window.sink_blocks :]
        self.version += 1
        for layer in range(CONFIG.num_layers):
            for block in kept:
                self.cache.write(layer, block, *content(layer, block, self.version))
        self.naive.clear_window(kept[0])
        self.commit(kept)

    def compare(self) -> None:
        for layer in range(CONFIG.num_layers):
            for oldest in range(self.naive.end - self.naive.reach - 2, self.naive.end + 2):
                self.compare_layer(layer, oldest)

    def compare_layer(self, layer: int, oldest: int) -> None:
        sink, recent = self.cache.visible(oldest)
        expected = self.naive.visible(oldest)
        assert sink == [block for block in expected if block < self.window.sink_blocks]
        assert recent == [block for block in expected if block >= self.window.sink_blocks]
        for blocks in (sink, recent, sink + recent):
            parts = self.cache.read(layer, blocks)
            assert len(parts) <= 3, "sink, and a ring that wraps once"
            wanted = [content(layer, block, self.naive.kept[block]) for block in blocks]
            for index in (0, 1):
                got = [row for part in parts for row in part[index].flatten(1).tolist()]
                want = [row for pair in wanted for row in pair[index].flatten(1).tolist()]
                assert sorted(got) == sorted(want)


windows = st.builds(
    lambda window, sink: WindowConfig(block_frames=3, window_frames=3 * window, sink_frames=3 * sink),
    window=st.integers(1, 6),
    sink=st.integers(0, 3),
)


@given(window=windows, start=st.integers(0, 25), steps=st.lists(st.sampled_from("ccccr"), max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_history_keeps_exactly_what_a_dictionary_keeps(
    window: WindowConfig, start: int, steps: list[str]
) -> None:
    both = Both(window)
    before = both.cache._rows.data_ptr(), both.cache._rows.shape, both.cache.num_bytes
    both.compare()
    if start:
        primed = context_blocks(window, start)
        both.write(primed)
        both.commit(primed)
        both.compare()
    for step in steps:
        if step == "c":
            both.write([both.naive.end])
            both.commit([both.naive.end])
        else:
            both.recache()
        both.compare()
    assert before == (both.cache._rows.data_ptr(), both.cache._rows.shape, both.cache.num_bytes)


def test_the_buffers_hold_the_sink_and_the_whole_window() -> None:
    window = WindowConfig(block_frames=3, window_frames=12, sink_frames=6)
    cache = KvCache(CONFIG, window, TOKENS, CPU, torch.float32)
    blocks, bytes_per_float = 2 + 4, 4
    per_token = 2 * CONFIG.num_layers * CONFIG.dim * bytes_per_float
    assert cache.num_bytes == blocks * TOKENS * per_token


def test_reading_gives_views_not_copies() -> None:
    both = Both(WindowConfig(block_frames=3, window_frames=9))
    both.write([0])
    both.commit([0])
    (key, _), *_ = both.cache.read(0, [0])
    assert key.untyped_storage().data_ptr() == both.cache._rows.untyped_storage().data_ptr()


@pytest.mark.parametrize("rope", ["absolute", "window"])
def test_a_sink_that_moves_is_turned_from_where_it_was_written(rope: str) -> None:
    """However often it was turned before, and whenever one of its blocks is written anew."""
    window = WindowConfig(block_frames=3, window_frames=6, sink_frames=6, rope=rope)
    cache = KvCache(CONFIG, window, TOKENS, CPU, torch.float32)
    latest = {}
    for version, (block, shift) in enumerate([(0, 0), (1, 2), (1, 2), (0, 7), (2, 7), (3, 1)]):
        key, value = content(1, block, version)
        cache.write(1, block, key, value)
        latest[block] = key, value
        cache.turn_sink(1, shift)
        for seen, (key, value) in latest.items():
            moves = rope == "window" and seen < 2
            (part,) = cache.read(1, [seen])
            expected = rotate(key, time_shift_turns(3 * shift, 4, CPU)) if moves else key
            torch.testing.assert_close(part, (expected, value))


@given(st.sets(st.integers(0, 40)))
def test_runs_cover_exactly_the_indices(indices: set[int]) -> None:
    runs = contiguous_runs(sorted(indices))
    assert [index for start, stop in runs for index in range(start, stop)] == sorted(indices)
    assert all(later[0] > earlier[1] for earlier, later in pairwise(runs))
