"""What LoRAs beside the weights take: of memory for each that is listed, of a pass for those that it has.

Those that a plan is about add to all Linears of the layers; real ones often leave some out. tests/cuda_dry
counts operations and kernels of a pass.
"""

from dataclasses import dataclass

from cascade_core.config import MAX_LORAS, TransformerConfig
from cascade_core.errors import InvalidConfig
from cascade_core.loras import MAX_CHOSEN

MAX_RANK = 512
PASS_TARGETS = 8
"""Linears of a layer in a pass; keys and values of the text are made once a prompt."""
KERNELS = 3
"""Of a low-rank product: narrow, its scales, wide and added."""
BYTES_PER_VALUE = 2


@dataclass(frozen=True)
class Loras:
    """So many of one rank are listed; a session uses as many as it may."""

    num_listed: int = 0
    rank: int = 32

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("num_loras", self.num_listed, 0, MAX_LORAS),
            ("lora_rank", self.rank, 1, MAX_RANK),
        ):
            if not least <= value <= most:
                raise InvalidConfig(f"{name}: {value} is not in {least}..{most}")

    @property
    def num_used(self) -> int:
        return min(self.num_listed, MAX_CHOSEN)

    def memory_bytes(self, dims: TransformerConfig) -> int:
        """On each rank in bfloat16: of those listed, and what putting several together may take."""
        widths = 8 * 2 * dims.dim + 2 * (dims.dim + dims.ffn_dim)
        one = BYTES_PER_VALUE * dims.num_layers * self.rank * widths
        return self.num_listed * one * (2 if self.num_listed > 1 else 1)

    def flop(self, dims: TransformerConfig, tokens: int) -> float:
        """Of one pass of one block."""
        widths = 6 * 2 * dims.dim + 2 * (dims.dim + dims.ffn_dim)
        return 2.0 * dims.num_layers * tokens * self.num_used * self.rank * widths

    def moved_bytes(self, dims: TransformerConfig, tokens: int) -> float:
        """Of the same: inputs read, outputs read and written, and what is narrow between them four times.
        Such narrow products wait for memory rather than for arithmetic."""
        widths = 6 * 3 * dims.dim + (dims.dim + 2 * dims.ffn_dim) + (dims.ffn_dim + 2 * dims.dim)
        narrow = 4 * PASS_TARGETS * self.num_used * self.rank
        return float(self.num_used and BYTES_PER_VALUE * dims.num_layers * tokens * (widths + narrow))

    def num_kernels(self, dims: TransformerConfig) -> int:
        """Of a rank's tick, however many blocks it has."""
        return KERNELS * PASS_TARGETS * dims.num_layers if self.num_used else 0
