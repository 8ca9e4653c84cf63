"""The only file with collectives: gathers the keys and values of all blocks in flight from all ranks."""

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

log = logging.getLogger(__name__)

# torch 2.13 renamed it; older releases know only the second of these.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


class Gathering(Protocol):
    """Keys and values under way."""

    def wait(self) -> tuple[Tensor, Tensor]:
        """Keys and values [W * N, L, H, D], rank by rank, N slots each."""


class Exchange(Protocol):
    """Gives every rank the keys and values of all ranks."""

    def gather(self, key: Tensor, value: Tensor, num_slots: int) -> Gathering:
        """Start to gather from every rank its blocks, [n, L, H, D] each, into N = `num_slots` slots, of which
        the last may stay empty; N is the same on all ranks."""


class Local:
    """Keys and values that are already here."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self._result = key, value

    def wait(self) -> tuple[Tensor, Tensor]:
        return self._result


class SoloExchange:
    """One rank: nothing travels."""

    def gather(self, key: Tensor, value: Tensor, num_slots: int) -> Local:
        return Local(key, value)


class PackedBuffers:
    """Where keys and values arrive: one for each of the latest frame sizes. Sessions choose theirs."""

    MAX_SIZES = 4

    def __init__(self, empty: Callable[[Tensor, tuple[int, ...]], Tensor]) -> None:
        self._empty = empty
        self._by_tokens: dict[int, Tensor] = {}

    def take(self, block: Tensor, num_blocks: int) -> Tensor:
        """[num_blocks, L, 2, H, D], each token's key beside its value, for blocks like [n, L, H, D]."""
        tokens, *head = block.shape[1:]
        kept = self._by_tokens.pop(tokens, None)
        if kept is None or len(kept) < num_blocks:
            kept = self._empty(block, (num_blocks, tokens, 2, *head))
        self._by_tokens[tokens] = kept
        if len(self._by_tokens) > self.MAX_SIZES:
            del self._by_tokens[next(iter(self._by_tokens))]
        return kept[:num_blocks]


def pack(key: Tensor, value: Tensor, slots: Tensor) -> None:
    """Put blocks [n, L, H, D] into the first of the slots [N, L, 2, H, D]."""
    slots[: len(key), :, 0] = key
    slots[: len(key), :, 1] = value


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    return packed[:, :, 0], packed[:, :, 1]


class GroupGathering:
    """A collective on its way; the caller's stream, not the host, waits for it on CUDA."""

    def __init__(self, packed: Tensor, work: dist.Work) -> None:
        self._packed = packed
        self._work = work

    def wait(self) -> tuple[Tensor, Tensor]:
        self._work.wait()
        return unpack(self._packed)


class GroupExchange:
    """NCCL or gloo between rank processes: one collective, in place, in a buffer that serves the next layer
    as well, which starts later."""

    def __init__(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._rank = dist.get_rank()
        self._buffers = PackedBuffers(RegisteredMemory().empty)

    def gather(self, key: Tensor, value: Tensor, num_slots: int) -> GroupGathering:
        packed = self._buffers.take(key, self._num_ranks * num_slots)
        own = packed[self._rank * num_slots : (self._rank + 1) * num_slots]
        pack(key, value, own)
        return GroupGathering(packed, _all_gather(packed, own, async_op=True))


class RegisteredMemory:
    """Memory that NCCL reads and writes itself, without a copy through buffers of its own (PyTorch documents
    it for MemPool); plain memory on a CPU, and where torch or the driver has no such allocator."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._is_refused = False

    def empty(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        if like.device.type == "cuda" and not self._is_refused:
            try:
                return self._registered(like, shape)
            except (AttributeError, RuntimeError, TypeError) as error:
                self._is_refused = True
                log.info("NCCL copies keys and values through buffers of its own: %s", error)
        return like.new_empty(shape)

    def _registered(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Registration is each rank's own: none waits for another. A pool stays registered as it grows."""
        backend: Any = dist.distributed_c10d._get_default_group()._get_backend(like.device)
        pool = self._pool or torch.cuda.MemPool(backend.mem_allocator)
        with torch.cuda.use_mem_pool(pool):
            memory = like.new_empty(shape)
        if self._pool is None:
            backend.register_mem_pool(pool)
            self._pool = pool
        return memory


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
