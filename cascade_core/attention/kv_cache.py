"""The clean keys and values of one session: sink and rolling window in fixed buffers.

Rows are [sink blocks | ring of window blocks]; bookkeeping is host integers, so reading and writing never
wait for the device. Keys lie rotated at their absolute positions. With `rope = window` only the sink moves
relative to its readers, and rotations compose, so its keys are turned by the difference when they are read.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from cascade_core.attention.attention import KeyValue
from cascade_core.config import TransformerConfig, WindowConfig


def contiguous_runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Half-open ranges that cover sorted distinct indices: 0 1 2 5 -> (0, 3), (5, 6)."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


class KvCache:
    """Clean keys and values of one session on one rank, for all layers."""

    def __init__(
        self,
        config: TransformerConfig,
        window: WindowConfig,
        tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`tokens` is L, the tokens of a block."""
        self.tokens = tokens
        self.device = device
        self.num_layers, self.head_dim = config.num_layers, config.head_dim
        self.sink_blocks = window.sink_blocks
        # The oldest block in flight sees its own block and window_blocks - 1 clean ones.
        self.ring_blocks = window.window_blocks - 1
        rows = (self.sink_blocks + self.ring_blocks) * tokens
        shape = (2, config.num_layers, rows, config.num_heads, config.head_dim)
        self._keys, self._values = torch.zeros(shape, device=device, dtype=dtype)
        self.first = 0
        """Oldest block of the window that is here; those before it were never written, or were replaced."""
        self.end = 0
        """Blocks from here on are not clean yet."""
        self.has_sink = False

    @property
    def num_bytes(self) -> int:
        return int(self._keys.nbytes + self._values.nbytes)

    def empty_blocks(self, count: int) -> Tensor:
        """Zeros [count, L, H, D] in the place of keys or values that a rank does not have."""
        shape = (count, self.tokens, *self._keys.shape[2:])
        return torch.zeros(shape, device=self.device, dtype=self._keys.dtype)

    def visible(self, oldest: int) -> tuple[list[int], list[int]]:
        """Clean blocks that a reader whose window starts at block `oldest` sees: (sink, window)."""
        sink = list(range(min(self.sink_blocks, self.end))) if self.has_sink else []
        kept = max(oldest, self.first, self.sink_blocks, self.end - self.ring_blocks)
        return sink, list(range(kept, self.end))

    def read(self, layer: int, blocks: Iterable[int]) -> list[KeyValue]:
        """Views of the given blocks' keys and values, neighbours joined, in no particular order."""
        runs = contiguous_runs(sorted(self._row(block) for block in blocks))
        return [
            (self._keys[layer, start:stop], self._values[layer, start:stop])
            for start, stop in ((a * self.tokens, b * self.tokens) for a, b in runs)
        ]

    def write(self, layer: int, block: int, key: Tensor, value: Tensor) -> None:
        """Store the clean keys and values [L, H, D] of a block; `commit` makes them count."""
        if block >= self.sink_blocks and not self.ring_blocks:
            return
        start = self._row(block) * self.tokens
        self._keys[layer, start : start + self.tokens] = key
        self._values[layer, start : start + self.tokens] = value

    def commit(self, block: int) -> None:
        """The block has been written in every layer.

        A block out of turn starts the window anew: the first of a recache, or of a session that was opened
        in the middle.
        """
        if block < self.sink_blocks:
            self.has_sink = True
        elif block != self.end:
            self.first = block
        self.end = block + 1

    def _row(self, block: int) -> int:
        if block < self.sink_blocks:
            return block
        return self.sink_blocks + (block - self.sink_blocks) % self.ring_blocks
