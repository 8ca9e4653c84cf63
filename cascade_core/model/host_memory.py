"""Tensors that go between the host and a device: pinned for CUDA, so that neither waits; plain for a CPU.

PyTorch keeps pinned memory for reuse, and gives a piece out again only once the copies of it are done.
"""

import torch
from torch import Tensor


def host_empty(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory of the CPU for values that go to the device, or come from it."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def upload(values: Tensor, device: torch.device) -> Tensor:
    """The host's values on the device, ordered with its work; the host goes on."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def download(values: Tensor) -> tuple[Tensor, torch.cuda.Event]:
    """Where values of a CUDA device will be on the CPU, and the event after which they are there."""
    host = host_empty(values.shape, values.device, values.dtype)
    return host.copy_(values, non_blocking=True), record_event()


def record_event() -> torch.cuda.Event:
    """At the end of the current CUDA stream. Who waits for it sleeps, instead of keeping a core busy."""
    event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
