"""An exchange that stands in for the other ranks on one device."""

import torch
from torch import Tensor

from cascade_core.attention.exchange import PackedBuffers, pack, unpack


class EmulatedGathering:
    """Keys and values that are being filled in on another stream."""

    def __init__(self, packed: Tensor, done: torch.cuda.Event | None) -> None:
        self._packed = packed
        self._done = done

    def wait(self) -> tuple[Tensor, Tensor]:
        if self._done:
            torch.cuda.current_stream().wait_event(self._done)
        return unpack(self._packed)


class EmulatedExchange:
    """Stands in for `num_ranks` ranks on one device: the same buffers and memory traffic, no network.

    This rank's part of a gather is its own. The others' are copies of random values, which read and write as
    many bytes as NCCL's sends and receives would; on CUDA they run beside the caller's kernels.
    """

    def __init__(self, num_ranks: int, rank: int, device: torch.device) -> None:
        self._num_ranks = num_ranks
        self._rank = rank
        self._stream = _new_stream(device) if device.type == "cuda" else None
        self._others = PackedBuffers(lambda like, shape: torch.randn(shape, device=device, dtype=like.dtype))
        self._results = PackedBuffers(Tensor.new_empty)

    def gather(self, key: Tensor, value: Tensor, num_slots: int) -> EmulatedGathering:
        """Start to fill keys and values [W * N, L, H, D] around this rank's own [n, L, H, D]."""
        num_blocks = self._num_ranks * num_slots
        others, packed = self._others.take(key, num_blocks), self._results.take(key, num_blocks)
        first, end = self._rank * num_slots, (self._rank + 1) * num_slots
        pack(key, value, packed[first:end])
        if self._stream is None:
            self._fill(others, packed, first, end)
            return EmulatedGathering(packed, None)
        self._stream.wait_stream(torch.cuda.current_stream())  # the buffer has been read
        with torch.cuda.stream(self._stream):
            self._fill(others, packed, first, end)
        return EmulatedGathering(packed, self._stream.record_event())

    def _fill(self, others: Tensor, packed: Tensor, first: int, end: int) -> None:
        packed[:first].copy_(others[:first])
        packed[end:].copy_(others[end:])


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
