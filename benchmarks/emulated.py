"""An exchange that stands in for the other ranks on one device."""

import torch
from torch import Tensor


class EmulatedGathering:
    """Keys and values that are being filled in on another stream."""

    def __init__(
        self,
        results: tuple[Tensor, Tensor],
        sources: tuple[Tensor, Tensor],
        done: torch.cuda.Event | None,
    ) -> None:
        """`sources` are held until the reader waits: only then may the allocator give them away."""
        self._results = results
        self._sources: tuple[Tensor, Tensor] | None = sources
        self._done = done

    def wait(self) -> tuple[Tensor, Tensor]:
        if self._done:
            torch.cuda.current_stream().wait_event(self._done)
        self._sources = None
        return self._results


class EmulatedExchange:
    """Stands in for `num_ranks` ranks on one device: the same buffers and memory traffic, no network.

    This rank's part of a gather is its own. The others' are copies of random values, which read and write as
    many bytes as NCCL's sends and receives would; on CUDA they run beside the caller's kernels.
    """

    def __init__(self, num_ranks: int, rank: int, device: torch.device) -> None:
        self._num_ranks = num_ranks
        self._rank = rank
        self._stream = _new_stream(device) if device.type == "cuda" else None
        self._others: Tensor | None = None
        self._results: tuple[Tensor, Tensor] | None = None

    def gather(self, key: Tensor, value: Tensor) -> EmulatedGathering:
        """Start to fill keys and values [W * N, L, H, D] around this rank's own [N, L, H, D]."""
        sources = key.contiguous(), value.contiguous()
        others, results = self._buffers(key)
        if self._stream is None:
            self._fill(sources, others, results)
            return EmulatedGathering(results, sources, None)
        self._stream.wait_stream(torch.cuda.current_stream())  # inputs are made, buffers have been read
        with torch.cuda.stream(self._stream):
            self._fill(sources, others, results)
        return EmulatedGathering(results, sources, self._stream.record_event())

    def _buffers(self, part: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        shape = (self._num_ranks * part.shape[0], *part.shape[1:])
        if self._others is None or self._results is None or self._others.shape != shape:
            self._others = torch.randn(shape, device=part.device, dtype=part.dtype)
            self._results = part.new_empty(shape), part.new_empty(shape)
        return self._others, self._results

    def _fill(self, sources: tuple[Tensor, Tensor], others: Tensor, results: tuple[Tensor, Tensor]) -> None:
        count = sources[0].shape[0]
        start = self._rank * count
        for source, result in zip(sources, results, strict=True):
            result[:start].copy_(others[:start])
            result[start : start + count].copy_(source)
            result[start + count :].copy_(others[start + count :])


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
