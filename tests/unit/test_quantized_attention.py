"""Attention in 8 bits: which kernel is asked, and how. The kernels themselves need a GPU (tests/gpu)."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from cascade_core.attention import attention as attention_module
from cascade_core.attention.attention import kernels, merge
from cascade_core.attention.exchange import SoloExchange
from cascade_core.attention.quantized import pick_quantized, quantized_kernels
from cascade_core.config import EngineConfig, make
from cascade_core.errors import InvalidConfig
from cascade_core.ranks.runner import Runner
from tests.support import CPU, make_shape, run_blocks, tiny_card, tiny_model

CUDA = torch.device("cuda", 0)
ASKED = make(EngineConfig, {"model": "demo", "quantize_attention": True})


def attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """By the definition: output [1, L, H, D] and log-sum-exp [1, H, L]."""
    q, k, v = (part.float().transpose(1, 2) for part in (query, key, value))
    scores = q @ k.transpose(2, 3) / query.shape[-1] ** 0.5
    return (scores.softmax(-1) @ v).transpose(1, 2).bfloat16(), scores.logsumexp(-1)


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False,
    qv: Tensor | None = None, q_descale: Tensor | None = None, k_descale: Tensor | None = None,
    v_descale: Tensor | None = None, window_size: tuple[int, int] = (-1, -1), attention_chunk: int = 0,
    softcap: float = 0.0, num_splits: int = 1, pack_gqa: bool | None = None, deterministic: bool = False,
    sm_margin: int = 0, return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """With the arguments of FlashAttention 3, and its rules for FP8."""
    assert (softmax_scale, causal, qv) == (None, False, None)
    parts = []
    for part, scale in ((q, q_descale), (k, k_descale), (v, v_descale)):
        assert part.dtype == torch.float8_e4m3fn
        assert (part.dim(), part.stride(-1)) == (4, 1)
        assert scale is not None
        assert (scale.shape, scale.dtype) == ((part.shape[0], part.shape[2]), torch.float32)
        parts.append(part.float() * scale[:, None, :, None])
    out, lse = attention(*parts)
    return (out, lse) if return_attn_probs else out


def sageattn(
    q: Tensor, k: Tensor, v: Tensor, tensor_layout: str = "HND", is_causal: bool = False,
    sm_scale: float | None = None, return_lse: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    """With the arguments of SageAttention 2."""
    assert (is_causal, sm_scale, kwargs) == (False, None, {})
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16
    if tensor_layout == "HND":
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out, lse = attention(q, k, v)
    return (out, lse) if return_lse else out


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A GPU of that compute capability, and these packages alone."""

    def install(capability: tuple[int, int], *packages: str) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        known: dict[str, dict[str, Any]] = {
            "flash_attn_interface": {"flash_attn_func": flash_attn_func},
            "sageattention": {"sageattn": sageattn, "sageattn_qk_int8_pv_fp8_cuda": sageattn},
            "sageattention 1": {"sageattn": sageattn},
        }
        for name in ("flash_attn_interface", "sageattention"):
            monkeypatch.setitem(sys.modules, name, None)
        for package in packages:
            module = ModuleType(package.split()[0])
            vars(module).update(known[package])
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


@pytest.mark.parametrize(
    ("capability", "packages", "names"),
    [
        ((9, 0), ("flash_attn_interface", "sageattention"), ["flash3_fp8", "sage"]),
        ((8, 9), ("flash_attn_interface", "sageattention"), ["sage"]),
        ((12, 0), ("sageattention",), ["sage"]),
        ((10, 0), ("flash_attn_interface", "sageattention"), []),
        ((8, 0), ("flash_attn_interface", "sageattention"), []),
        ((9, 0), ("sageattention 1",), []),
        ((9, 0), (), []),
    ],
)
def test_what_serves_a_gpu(
    capability: tuple[int, int], packages: tuple[str, ...], names: list[str], install: Callable[..., None]
) -> None:
    install(capability, *packages)
    assert list(quantized_kernels()) == names
    if not names:
        with pytest.raises(
            InvalidConfig, match=r"^quantize_attention: needs FlashAttention 3 \(Hopper\) or Sage"
        ):
            pick_quantized(ASKED, CUDA, torch.bfloat16)


@pytest.mark.parametrize("package", ["flash_attn_interface", "sageattention"])
def test_parts_merge_to_the_whole(package: str, install: Callable[..., None]) -> None:
    """Heads of unequal size, as trained ones are: each has a scale of its own."""
    install((9, 0), package)
    kernel = pick_quantized(ASKED, CUDA, torch.bfloat16)
    assert kernel
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1e-3, 1.0, 30.0])[:, None]
    query, key, value = ((torch.randn(n, 3, 64, generator=generator)) for n in (50, 70, 70))
    parts = [part.bfloat16() for part in (query / sizes, key * sizes, value * sizes)]
    partials = [kernel(parts[0], parts[1][a:b], parts[2][a:b]) for a, b in ((0, 30), (30, 70))]
    assert all(out.shape == (50, 3, 64) and lse.shape == (50, 3, 1) for out, lse in partials)
    expected = attention(*(part[None] for part in parts))[0][0].float()
    error = (merge(partials).float() - expected).flatten(2).norm(dim=2).norm(dim=0) / expected.norm(
        dim=(0, 2)
    )
    assert error.max() < 0.1


def test_it_is_refused_where_nothing_can_serve(install: Callable[..., None]) -> None:
    install((9, 0), "flash_attn_interface")
    assert pick_quantized(make(EngineConfig, {"model": "demo"}), CPU, torch.float32) is None
    with pytest.raises(
        InvalidConfig, match=r"^quantize_attention: .* none that serves this device is installed"
    ):
        pick_quantized(ASKED, CPU, torch.bfloat16)
    with pytest.raises(InvalidConfig, match=r"^quantize_attention: needs dtype bfloat16"):
        pick_quantized(ASKED, CUDA, torch.float32)


def test_all_self_attention_is_by_the_kernel_that_was_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clean blocks and of those in flight: no other is even looked for."""
    card = tiny_card()
    model, shape = tiny_model(card), make_shape(card, 1)
    kernel = kernels("cpu", torch.float32)["cpu"]
    expected = run_blocks(Runner(model, card, shape, 0, SoloExchange()), 3)
    monkeypatch.setattr(attention_module, "_preferred_kernel", None)
    actual = run_blocks(Runner(model, card, shape, 0, SoloExchange(), kernel), 3)
    assert all(torch.equal(latents, expected[block]) for block, latents in actual.items())
