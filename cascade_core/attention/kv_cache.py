"""The clean keys and values of one session: sink and rolling window in fixed buffers.

Rows are [sink blocks | window blocks], each token's key beside its value; bookkeeping is host integers, so
reading and writing never wait for the device. In the window a new block takes the place of the oldest that is
not pinned: mostly a ring. Keys lie rotated at their absolute positions. With
`rope = window` only the sink moves relative to its readers, and rotations compose: its keys lie turned by the
difference, anew when that changes, and as they were besides.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from cascade_core.attention.attention import KeyValue
from cascade_core.attention.rope import rotate, time_shift_turns
from cascade_core.config import TransformerConfig, WindowConfig

MAX_TURNS = 32
NOT_TURNED = -1
"""The shift of a sink that has just been written."""


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
        # window_blocks - 1 clean ones, the pinned one among them, and one that is alone in flight.
        self.ring_blocks = window.window_blocks
        self._places: dict[int, int] = {}
        """By block of the window: its row of blocks, counted from 0."""
        self._block_frames = window.block_frames
        heads = config.num_heads, config.head_dim
        rows = (self.sink_blocks + self.ring_blocks) * tokens
        self._rows = torch.zeros((config.num_layers, rows, 2, *heads), device=device, dtype=dtype)
        moving_rows = self.sink_blocks * tokens if window.rope == "window" else 0
        self._sink_keys = self._rows.new_zeros((config.num_layers, moving_rows, *heads))
        """As they were before they were turned."""
        self._sink_shifts = [NOT_TURNED] * config.num_layers
        self._turns: dict[int, Tensor] = {}
        self.first = 0
        """Oldest block of the window that is here; those before it were never written, or were replaced."""
        self.end = 0
        """Blocks from here on are not clean yet."""
        self.has_sink = False

    @property
    def num_bytes(self) -> int:
        return int(self._rows.nbytes + self._sink_keys.nbytes)

    def no_blocks(self) -> Tensor:
        """[0, L, H, D]: the keys or values of a rank without work."""
        return self._rows.new_empty((0, self.tokens, *self._rows.shape[3:]))

    def visible(self, oldest: int) -> tuple[list[int], list[int]]:
        """Clean blocks that a reader whose window starts at block `oldest` sees: (sink, window)."""
        sink = list(range(min(self.sink_blocks, self.end))) if self.has_sink else []
        kept = max(oldest, self.first, self.sink_blocks, self.end - self.ring_blocks + 1)
        return sink, [block for block in range(kept, self.end) if block in self._places]

    def has(self, block: int) -> bool:
        """Whether this clean block is here, whatever was encoded anew behind it."""
        return self.has_place(block) and block < self.end

    def has_place(self, block: int) -> bool:
        """Whether there is a row for it. Of many that are encoded at once, the newest and the pinned stay."""
        return block < self.sink_blocks or block in self._places

    def read(self, layer: int, blocks: Iterable[int]) -> list[KeyValue]:
        """Views of the given blocks' keys and values, neighbours joined, in no particular order."""
        runs = contiguous_runs(sorted(self._row(block) for block in blocks))
        parts = [self._rows[layer, start * self.tokens : stop * self.tokens] for start, stop in runs]
        return [(part[:, 0], part[:, 1]) for part in parts]

    def write(self, layer: int, block: int, key: Tensor, value: Tensor) -> None:
        """Store the keys and values [L, H, D] of a block; `commit` makes them count as clean."""
        self.place(block)
        start = self._row(block) * self.tokens
        rows = slice(start, start + self.tokens)
        self._rows[layer, rows, 0] = key
        self._rows[layer, rows, 1] = value
        if block < self.sink_blocks and len(self._sink_keys[layer]):
            self._sink_keys[layer, rows] = key
            self._sink_shifts[layer] = NOT_TURNED

    def place(self, block: int, pinned: int | None = None) -> None:
        """Find a row for a block, which may be that of the oldest one, but not of `pinned`."""
        if block < self.sink_blocks or block in self._places:
            return
        if len(self._places) == self.ring_blocks:
            row = self._places.pop(min(other for other in self._places if other != pinned))
        else:  # wherever a session is opened, as if it had always been there: warm-up has met that
            taken = self._places.values()
            ring = ((block + step - self.sink_blocks) % self.ring_blocks for step in range(self.ring_blocks))
            row = next(place for place in ring if place not in taken)
        self._places[block] = row

    def turn_sink(self, layer: int, shift: int) -> None:
        """With `rope = window`: move the sink's keys `shift` blocks on from where they were written."""
        if self._sink_shifts[layer] != shift and len(keys := self._sink_keys[layer]):
            self._rows[layer, : len(keys), 0] = rotate(keys, self.turns(shift))
            self._sink_shifts[layer] = shift

    def turns(self, shift: int) -> Tensor:
        """What turns a key by as many blocks; the last are kept, since all layers ask for them."""
        if shift not in self._turns:
            if len(self._turns) == MAX_TURNS:
                del self._turns[min(self._turns)]  # shifts grow from block to block
            self._turns[shift] = time_shift_turns(shift * self._block_frames, self.head_dim, self.device)
        return self._turns[shift]

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
        return block if block < self.sink_blocks else self.sink_blocks + self._places[block]
