"""Tensors of the host that a device copies while the host goes on: pinned for CUDA, plain for a CPU.

PyTorch keeps pinned memory for reuse, and gives a piece out again only once the copies that read it are done.
"""

import torch
from torch import Tensor


def host_empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Float32 values yet to be written."""
    return torch.empty(shape, pin_memory=device.type == "cuda")


def upload(values: Tensor, device: torch.device) -> Tensor:
    """The host's values on the device; the host does not wait for it."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
