"""Attention in 8 bits, by kernels that are installed beside PyTorch: FlashAttention 3, SageAttention 2.

Keys and values come as the cache holds them, in the compute type, and are quantized for this one call. Calls
fit flash-attention at commit 0251105 (hopper/flash_attn_interface.py) and SageAttention at d1a57a5
(sageattention/core.py).
"""

import torch
from torch import Tensor

from cascade_core.attention.attention import Kernel, Partial
from cascade_core.config import EngineConfig
from cascade_core.errors import InvalidConfig
from cascade_core.fp8 import quantize

SAGE_CAPABILITIES = ((8, 9), (9, 0), (12, 0), (12, 1))
"""Of GPUs on which SageAttention has the weights times values in FP8, and queries times keys in INT8."""


def pick_quantized(config: EngineConfig, device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """The kernel that `quantize_attention` asks for; None where it asks for none.

    Raises InvalidConfig where nothing that is installed serves this device.
    """
    if not config.quantize_attention:
        return None
    found = quantized_kernels() if device.type == "cuda" else {}
    if not found:
        raise InvalidConfig(
            "quantize_attention: needs FlashAttention 3 (Hopper) or SageAttention 2 (compute capability 8.9, "
            "9.0 or 12.x), and none that serves this device is installed; turn it off"
        )
    if dtype != torch.bfloat16:
        raise InvalidConfig("quantize_attention: needs dtype bfloat16, or auto")
    return next(iter(found.values()))


def quantized_kernels() -> dict[str, Kernel]:
    """Those that serve this GPU, by name, the preferred one first."""
    capability = torch.cuda.get_device_capability()
    found: dict[str, Kernel] = {}
    if capability[0] == 9 and (flash3 := _flash3()):
        found["flash3_fp8"] = flash3
    if capability in SAGE_CAPABILITIES and (sage := _sage()):
        found["sage"] = sage
    return found


def _flash3() -> Kernel | None:
    try:
        from flash_attn_interface import flash_attn_func
    except ImportError:
        return None

    def flash3_fp8(query: Tensor, key: Tensor, value: Tensor) -> Partial:
        """Each of the three has a scale for each head, which the kernel takes as [1, H]."""
        (q, q_scale), (k, k_scale), (v, v_scale) = (quantize(x[None], (1, 3)) for x in (query, key, value))
        scales = {"q_descale": q_scale, "k_descale": k_scale, "v_descale": v_scale}
        scales = {name: scale[:, 0, :, 0] for name, scale in scales.items()}
        out, lse = flash_attn_func(q, k, v, **scales, return_attn_probs=True)
        return out[0], lse[0].transpose(0, 1)[..., None]

    return flash3_fp8


def _sage() -> Kernel | None:
    try:
        # Version 1, which PyPI has, knows no FP8.
        from sageattention import sageattn, sageattn_qk_int8_pv_fp8_cuda  # noqa: F401
    except ImportError:
        return None

    def sage(query: Tensor, key: Tensor, value: Tensor) -> Partial:
        out, lse = sageattn(query[None], key[None], value[None], tensor_layout="NHD", return_lse=True)
        return out[0], lse[0].transpose(0, 1)[..., None]

    return sage
