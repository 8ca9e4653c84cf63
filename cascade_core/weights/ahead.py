"""Mapped files read by several threads: one alone waits for part after part, which no disk is fast at."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from cascade_core.weights.scaled import ScaledTensor

NUM_READERS = 4
MAX_AHEAD = 2 * NUM_READERS
"""Tensors: pages that are read too early may be gone again where memory is short."""
PAGE_BYTES = 4096


def read_ahead(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The same in the same order: each once its pages are in memory, the next ones being on their way."""
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="weights") as readers:
        coming: deque[tuple[str, Tensor, Future[None]]] = deque()
        for name, tensor in named:
            coming.append((name, tensor, readers.submit(_read, tensor)))
            if len(coming) > MAX_AHEAD:
                yield _arrived(coming)
        while coming:
            yield _arrived(coming)


def _arrived(coming: deque[tuple[str, Tensor, Future[None]]]) -> tuple[str, Tensor]:
    name, tensor, reading = coming.popleft()
    reading.result()
    return name, tensor


def _read(tensor: Tensor) -> None:
    """A byte of each page, which the kernel then has to read."""
    part = tensor.coded if isinstance(tensor, ScaledTensor) else tensor
    if part.is_contiguous():
        part.flatten().view(torch.uint8)[::PAGE_BYTES].sum()
