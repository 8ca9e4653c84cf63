"""The only file with collectives: gathers the keys and values of all blocks in flight from all ranks."""

import os
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed it; older releases know only the second of these.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


class Gathering(Protocol):
    """Keys and values under way."""

    def wait(self) -> tuple[Tensor, Tensor]:
        """Keys and values [W * N, L, H, D], rank by rank, N slots each."""


class Exchange(Protocol):
    """Gives every rank the keys and values of all ranks."""

    def gather(self, key: Tensor, value: Tensor) -> Gathering:
        """Start to gather [N, L, H, D] from every rank; N is the same on all."""


class Local:
    """Keys and values that are already here."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self._result = key, value

    def wait(self) -> tuple[Tensor, Tensor]:
        return self._result


class SoloExchange:
    """One rank: nothing travels."""

    def gather(self, key: Tensor, value: Tensor) -> Local:
        return Local(key, value)


class GroupGathering:
    """Two collectives on their way; the caller's stream, not the host, waits for them on CUDA."""

    def __init__(self, results: tuple[Tensor, Tensor], works: list[dist.Work]) -> None:
        self._results = results
        self._works = works

    def wait(self) -> tuple[Tensor, Tensor]:
        for work in self._works:
            work.wait()
        return self._results


class GroupExchange:
    """NCCL or gloo between rank processes. A layer's buffers serve the next layer, which starts later."""

    def __init__(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._buffers: tuple[Tensor, Tensor] | None = None
        """Of the latest size only: sessions choose their frame sizes, and there are many."""

    def gather(self, key: Tensor, value: Tensor) -> GroupGathering:
        shape = (self._num_ranks * key.shape[0], *key.shape[1:])
        if self._buffers is None or self._buffers[0].shape != shape:
            self._buffers = key.new_empty(shape), key.new_empty(shape)
        results = self._buffers
        works = [
            _all_gather(result, part.contiguous(), async_op=True)
            for result, part in zip(results, (key, value), strict=True)
        ]
        return GroupGathering(results, works)


def join_group(
    rank: int, num_ranks: int, rendezvous: str, device: torch.device, timeout_s: float
) -> Exchange:
    """Join the process group of this engine's ranks on this machine; blocks until all have joined.

    `rendezvous` is a path that does not exist yet, the same for every rank.
    """
    if num_ranks == 1:
        return SoloExchange()
    if device.type == "cpu":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # ranks share a machine; host names may not resolve
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=timeout_s),
        device_id=device if device.type == "cuda" else None,
    )
    return GroupExchange(num_ranks)
