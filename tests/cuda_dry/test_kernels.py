"""Each attention kernel, as its operator's schema and its package's signature want to be called."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.trace.cases import counting_cuda
from benchmarks.trace.fake_cuda import CUDA
from cascade_core.attention.attention import attend_partial, kernels
from cascade_core.attention.quantized import quantized_kernels
from tests.cuda_dry.support import rank, shallow

HEADS = (12, 128)
TOKENS, KEYS = 4680, 3 * 4680


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    qv: Tensor | None = None,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    deterministic: bool = False,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
) -> Any:
    """Takes and gives what FlashAttention 3 does (hopper/flash_attn_interface.py at 01afd16)."""
    batch, length, heads, head_dim = q.shape
    assert k.shape == v.shape == (batch, k.shape[1], heads, head_dim)
    assert q.dtype == k.dtype == v.dtype
    assert q.dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn)
    for scale in (q_descale, k_descale, v_descale):
        assert (scale is not None) == (q.dtype == torch.float8_e4m3fn)
        assert scale is None or (scale.shape, scale.dtype) == ((batch, heads), torch.float32)
    out = q.new_empty(q.shape, dtype=torch.bfloat16 if q_descale is not None else q.dtype)
    return (out, q.new_empty((batch, heads, length), dtype=torch.float32)) if return_attn_probs else out


@pytest.fixture
def flash3(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("flash_attn_interface")
    module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def tensors(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    query = torch.empty(TOKENS, *HEADS, dtype=dtype, device=CUDA)
    cache = torch.empty(2, 2, KEYS + TOKENS, *HEADS, dtype=dtype, device=CUDA)
    return query, cache[0, 1, TOKENS:], cache[1, 1, TOKENS:]


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        ((9, 0), torch.bfloat16, "_scaled_dot_product_cudnn_attention"),
        ((10, 0), torch.bfloat16, "_scaled_dot_product_cudnn_attention"),
        ((8, 9), torch.bfloat16, "_scaled_dot_product_flash_attention"),
        ((9, 0), torch.float32, "_scaled_dot_product_efficient_attention"),
    ],
)
def test_the_preferred_one(capability: tuple[int, int], dtype: torch.dtype, expected: str) -> None:
    with counting_cuda(capability) as counter, counter.counting() as counts:
        query, key, value = tensors(dtype)
        out, lse = attend_partial(query, (key, value))
        assert (out.shape, out.dtype) == (query.shape, dtype)
        assert (lse.shape, lse.dtype) == ((TOKENS, HEADS[0], 1), torch.float32)
    assert expected in counts.by_operator
    assert counts.attention_flop == 4 * TOKENS * KEYS * HEADS[0] * HEADS[1]


@pytest.mark.usefixtures("flash3")
def test_flash_attention_3_comes_first_on_hopper_alone() -> None:
    for capability, names in (
        ((9, 0), ["flash3", "cudnn", "flash", "efficient"]),
        ((8, 9), ["flash", "efficient"]),
    ):
        with counting_cuda(capability):
            found = kernels("cuda", torch.bfloat16)
            assert list(found) == names
            for kernel in found.values():
                query, key, value = tensors(torch.bfloat16)
                out, lse = kernel(query, key, value)
                assert (out.shape, out.dtype) == (query.shape, query.dtype)
                assert (lse.shape, lse.dtype) == ((TOKENS, HEADS[0], 1), torch.float32)


@pytest.mark.usefixtures("flash3")
def test_flash_attention_3_in_eight_bits() -> None:
    with counting_cuda():
        query, key, value = tensors(torch.bfloat16)
        out, lse = quantized_kernels()["flash3_fp8"](query, key, value)
        assert (out.shape, out.dtype) == (query.shape, query.dtype)
        assert (lse.shape, lse.dtype) == ((TOKENS, HEADS[0], 1), torch.float32)


@pytest.mark.usefixtures("flash3")
def test_a_session_by_flash_attention_3() -> None:
    with rank(shallow("longlive-1.3b"), num_ranks=5) as one:
        one.run(4)
        one.check()
        assert "_scaled_dot_product_cudnn_attention" not in one.operators


@pytest.mark.parametrize("capability", [(8, 0), (10, 0)])
def test_a_session_on_other_gpus(capability: tuple[int, int]) -> None:
    with rank(shallow("longlive-1.3b"), capability=capability) as one:
        one.run(3)
        one.check()


def test_a_session_in_float32() -> None:
    with rank(shallow("demo"), dtype=torch.float32) as one:
        one.run(3)
        assert one.waits == []
        assert "_scaled_dot_product_efficient_attention" in one.operators
