"""Attention over parts of the keys, and the exact merge of partial results.

A block attends to [clean cache | blocks in flight]. The parts arrive at different times, so each is
attended on its own and the results are merged by their log-sum-exp, which equals one softmax over all
keys. Shapes are [L, H, D] without a batch dimension: blocks see different keys, so they never batch.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each [S, H, D]."""

Partial = tuple[Tensor, Tensor]
"""Output [L, H, D] and float32 log-sum-exp [L, H, 1] (natural) of attention to some of the keys."""

Kernel = Callable[[Tensor, Tensor, Tensor], Partial]


def attend_partial(query: Tensor, key_value: KeyValue, kernel: Kernel | None = None) -> Partial:
    """Softmax attention of queries [L, H, D] to the given keys only. None: by the preferred kernel."""
    key, value = key_value
    return (kernel or _preferred_kernel(query.device.type, query.dtype))(query, key, value)


def merge(partials: Sequence[Partial]) -> Tensor:
    """Attention [L, H, D] to the union of the partials' keys."""
    if len(partials) == 1:
        return partials[0][0]
    weights = torch.stack([lse for _, lse in partials]).softmax(dim=0)  # [parts, L, H, 1]
    total = partials[0][0].float() * weights[0]
    for (out, _), weight in zip(partials[1:], weights[1:], strict=True):
        total = torch.addcmul(total, out.float(), weight)
    return total.to(partials[0][0].dtype)


def kernels(device: str, dtype: torch.dtype) -> dict[str, Kernel]:
    """The kernels that can serve, by name, the preferred one first; `device` is `cpu` or `cuda`."""
    if device == "cpu":
        return {"cpu": _cpu}
    found: dict[str, Kernel] = {}
    if dtype != torch.float32:
        if flash3 := _flash3_kernel():
            found["flash3"] = flash3
        if _cudnn_is_fast():
            found["cudnn"] = _cuda_cudnn
        found["flash"] = _cuda_flash
    return found | {"efficient": _cuda_efficient}


@cache
def _preferred_kernel(device: str, dtype: torch.dtype) -> Kernel:
    return next(iter(kernels(device, dtype).values()))


def _cudnn_is_fast() -> bool:
    """PyTorch's own rule for SDPA: on these GPUs cuDNN beats FlashAttention 2; older cuDNNs had faults."""
    version = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    return version > 91500 and torch.cuda.get_device_capability() in ((9, 0), (10, 0))


def _heads_first(x: Tensor) -> Tensor:
    return x[None].transpose(1, 2)  # [1, H, L, D]


def _partial(out: Tensor, lse: Tensor) -> Partial:
    return out[0].transpose(0, 1), lse[0].transpose(0, 1)[..., None].float()


def _cpu(query: Tensor, key: Tensor, value: Tensor) -> Partial:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        _heads_first(query), _heads_first(key), _heads_first(value)
    )
    return _partial(out, lse)


def _cuda_flash(query: Tensor, key: Tensor, value: Tensor) -> Partial:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        _heads_first(query), _heads_first(key), _heads_first(value)
    )
    return _partial(out, lse)


def _cuda_cudnn(query: Tensor, key: Tensor, value: Tensor) -> Partial:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        _heads_first(query), _heads_first(key), _heads_first(value), None, True
    )
    return _partial(out, lse[..., 0])  # the kernel gives [1, H, L, 1]


def _cuda_efficient(query: Tensor, key: Tensor, value: Tensor) -> Partial:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        _heads_first(query), _heads_first(key), _heads_first(value), None, True
    )
    return _partial(out, lse[..., : query.shape[0]])  # the kernel pads the log-sum-exp


def _flash3_kernel() -> Kernel | None:
    """FlashAttention 3 where its package is installed and the GPU is Hopper."""
    if torch.cuda.get_device_capability()[0] != 9:
        return None
    try:
        from flash_attn_interface import flash_attn_func
    except ImportError:
        return None

    def flash3(query: Tensor, key: Tensor, value: Tensor) -> Partial:
        out, lse = flash_attn_func(query[None], key[None], value[None], return_attn_probs=True)
        return out[0], lse[0].transpose(0, 1)[..., None]

    return flash3
