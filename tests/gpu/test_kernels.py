"""Every attention kernel of this GPU: parts merged by log-sum-exp equal one softmax over all keys."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cascade_core.attention.attention import Kernel, kernels, merge
from cascade_core.attention.quantized import quantized_kernels
from tests.gpu.support import relative_l2

NAMES = ("flash3", "cudnn", "flash", "efficient")
SIZES = [4680, 14040, 333]
"""Keys: a block at 480p, three of them in one piece, and an odd number."""
TOLERANCES = {torch.bfloat16: 0.01, torch.float32: 1e-4}


def find_kernel(name: str, dtype: torch.dtype) -> Kernel:
    found = kernels("cuda", dtype)
    if name not in found:
        pytest.skip(f"{name} does not serve here; found: {', '.join(found)}")
    return found[name]


def whole(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention [L, H, D] and its log-sum-exp [L, H, 1] in float32, from PyTorch and from the definition."""
    parts = [part.float().transpose(0, 1) for part in (query, key, value)]  # [H, L, D]
    scores = parts[0] @ parts[1].transpose(1, 2) / query.shape[-1] ** 0.5
    out = F.scaled_dot_product_attention(*(part[None] for part in parts))[0]
    return out.transpose(0, 1), scores.logsumexp(dim=-1).transpose(0, 1)[..., None]


def tensors(num_keys: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Query [1170, 3, D], keys and values [S, 3, D]; with loud scores, so that parts weigh unequally."""
    generator = torch.Generator(device).manual_seed(num_keys)
    shapes = [(1170, 3, head_dim), (num_keys, 3, head_dim), (num_keys, 3, head_dim)]
    made = [torch.randn(shape, generator=generator, device=device) for shape in shapes]
    return [(2 * made[0]).to(dtype), made[1].to(dtype), made[2].to(dtype)]


@pytest.mark.parametrize("head_dim", [32, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_merged_parts_equal_the_union(
    name: str, dtype: torch.dtype, head_dim: int, device: torch.device
) -> None:
    kernel = find_kernel(name, dtype)
    query, key, value = tensors(sum(SIZES), head_dim, dtype, device)
    parts = zip(key.split(SIZES), value.split(SIZES), strict=True)
    with torch.inference_mode():
        partials = [kernel(query, *part) for part in parts]
    expected, lse = whole(query, key, value)
    assert relative_l2(merge(partials), expected) < TOLERANCES[dtype]
    assert all(part.shape == lse.shape and part.dtype == torch.float32 for _, part in partials)
    merged = torch.stack([part for _, part in partials]).logsumexp(dim=0)
    torch.testing.assert_close(merged, lse, rtol=0, atol=0.02)  # natural, of the scaled scores


@pytest.mark.parametrize("name", ["flash3_fp8", "sage"])
def test_merged_parts_in_8_bits(name: str, device: torch.device) -> None:
    """Those that are installed for `quantize_attention`; heads are of unequal size, as trained ones are."""
    found = quantized_kernels()
    if name not in found:
        pytest.skip(f"{name} does not serve here; found: {', '.join(found) or 'none'}")
    sizes = torch.tensor([0.1, 1.0, 10.0], device=device)[:, None]
    query, key, value = tensors(sum(SIZES), 128, torch.bfloat16, device)
    query, key, value = (
        (x * factor).to(x.dtype) for x, factor in ((query, 1 / sizes), (key, sizes), (value, sizes))
    )
    parts = zip(key.split(SIZES), value.split(SIZES), strict=True)
    with torch.inference_mode():
        partials = [found[name](query, *part) for part in parts]
    expected, lse = whole(query, key, value)
    for head in range(3):
        assert relative_l2(merge(partials)[:, head], expected[:, head]) < 0.1
    merged = torch.stack([part for _, part in partials]).logsumexp(dim=0)
    torch.testing.assert_close(merged, lse, rtol=0, atol=0.3)


@pytest.mark.parametrize("name", NAMES)
def test_views_of_larger_buffers(name: str, device: torch.device) -> None:
    """As the runner calls it: keys and values are slices of the cache, queries one block of several."""
    kernel = find_kernel(name, torch.bfloat16)
    query, key, value = tensors(1000, 128, torch.bfloat16, device)
    queries = torch.stack([query, query.flip(0)])
    cache = torch.stack([key, value])[:, None].expand(2, 3, -1, -1, -1).contiguous()
    out, _ = kernel(queries[1], cache[0, 1, 100:900], cache[1, 1, 100:900])
    assert relative_l2(out, whole(queries[1], key[100:900], value[100:900])[0]) < 0.01


def test_some_kernel_is_preferred(device: torch.device) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        print(dtype, "->", ", ".join(kernels("cuda", dtype)))
        assert kernels("cuda", dtype)
