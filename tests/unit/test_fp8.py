"""The layers in FP8: how far from float, what stays as it was, and that no token touches another."""

import copy
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.trace.cases import counting_cuda
from benchmarks.trace.fake_cuda import CUDA
from cascade_core import fp8
from cascade_core.attention.rope import RotaryTable
from cascade_core.config import EngineConfig, Quantize, find_card, make
from cascade_core.errors import InvalidConfig
from cascade_core.model.fp8 import Fp8Linear, check_fp8, quantize_model
from cascade_core.model.model import CausalWanModel, Conditioning
from cascade_core.planning.memory import weights_bytes
from cascade_core.ranks import loading
from cascade_core.weights import weights
from cascade_core.weights.locate import locate
from tests.support import CPU, make_runner, run_blocks, tiny_card, tiny_model

CARD = tiny_card(dim=256, ffn_dim=512, num_layers=3)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def in_fp8(model: CausalWanModel) -> CausalWanModel:
    quantized = copy.deepcopy(model)
    quantize_model(quantized)
    return quantized


@pytest.fixture(scope="module")
def demo() -> tuple[CausalWanModel, CausalWanModel]:
    """Trained weights, in float32 and in FP8."""
    card = find_card("demo")
    files = locate(card, None)
    plain, quantized = (
        loading.build_model(card, files, 0, CPU, torch.float32, how) for how in ("none", "fp8")
    )
    return plain, quantized


def attend_to_own(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each block sees itself alone; [N, L, H, D] in and out."""
    attended = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
    return attended.transpose(1, 2)


def velocity(model: CausalWanModel, latents: Tensor, prompt: Tensor | None = None) -> Tensor:
    """Of blocks [N, F, C, h, w] at two noise levels."""
    blocks, frames, _, height, width = latents.shape
    starts = [frames * block for block in range(blocks)]
    turns = RotaryTable(frames, height // 2, width // 2, model.config.head_dim, CPU).turns(starts)
    time, modulation = model.embed_time([937.5, 625.0][:blocks])
    text = model.embed_text(random(5, model.config.text_dim, seed=1) if prompt is None else prompt)
    with torch.inference_mode():
        return model(latents, Conditioning(time, modulation, turns, (text,) * blocks), attend_to_own)


def latents_for(model: CausalWanModel, blocks: int = 2) -> Tensor:
    return random(blocks, 3, model.config.in_channels, 12, 12)


def linears(model: CausalWanModel) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Fp8Linear):
            yield name, module


# Rows.


@given(
    exponents=st.lists(st.floats(-30, 30), min_size=1, max_size=8),
    width=st.integers(1, 70),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=60, deadline=None)
def test_each_row_is_rounded_by_its_own_scale(
    exponents: list[float], width: int, seed: int, dtype: torch.dtype
) -> None:
    """To three bits behind the first, or, near zero, to the 2**-9th part of the scale (e4m3)."""
    x = (random(len(exponents), width, seed=seed) * torch.tensor(exponents).exp2()[:, None]).to(dtype)
    values, scales = fp8.quantize(x, dim=(1,))
    assert (values.dtype, scales.shape) == (torch.float8_e4m3fn, (len(x), 1))
    error = (values.float() * scales - x.float()).abs()
    assert (error <= 1.001 * torch.maximum(x.float().abs() / 16, scales * 2**-10)).all()
    assert torch.equal(values.float().abs().amax(1), torch.full([len(x)], 448.0))


def test_a_row_of_zeros_stays_zero() -> None:
    values, scales = fp8.quantize(torch.zeros(2, 16), dim=(1,))
    assert values.float().eq(0).all()
    assert scales.gt(0).all()


def test_an_outlier_changes_its_own_token_alone() -> None:
    linear = Fp8Linear(nn.Linear(64, 48))
    quiet = random(2, 30, 64)
    loud = quiet.clone()
    loud[1, 7, 3] = 1e4
    changed = (linear(loud) != linear(quiet)).any(dim=-1)
    assert changed.nonzero().tolist() == [[1, 7]]


def test_a_block_comes_out_the_same_whatever_stands_beside_it() -> None:
    model = in_fp8(tiny_model(CARD))
    latents = latents_for(model)
    beside = latents.clone()
    beside[1] *= 1000
    assert torch.equal(velocity(model, latents)[0], velocity(model, beside)[0])


@pytest.mark.slow
def test_compiled_it_computes_the_same() -> None:
    linear = Fp8Linear(nn.Linear(64, 48).bfloat16())
    x = random(2, 30, 64).bfloat16()
    with torch.inference_mode():
        assert torch.equal(torch.compile(linear, fullgraph=True)(x), linear(x))


# How far from float.


def test_every_linear_stays_near_its_float_form(demo: tuple[CausalWanModel, CausalWanModel]) -> None:
    """On what it is given in a pass of the demo model. Two roundings to three bits of numbers that are
    independent make 3.7 %; sums of numbers that cancel, more."""
    plain, quantized = demo
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def see(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(_module: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
            seen[name] = given[0], made

        return hook

    hooks = [module.register_forward_hook(see(name)) for name, module in linears(plain)]
    velocity(plain, latents_for(plain))
    for hook in hooks:
        hook.remove()
    in_layers = {name: pair for name, pair in seen.items() if name.startswith("blocks.")}
    assert in_layers.keys() == {name for name, module in linears(quantized) if isinstance(module, Fp8Linear)}
    for name, (x, made) in in_layers.items():
        assert 0.005 < distance(quantized.get_submodule(name)(x), made) < 0.07, name


@pytest.mark.parametrize("index", range(5))
def test_every_layer_alone_moves_the_velocity_little(
    index: int, demo: tuple[CausalWanModel, CausalWanModel]
) -> None:
    plain, quantized = demo
    mixed = copy.copy(plain)
    mixed._modules = dict(plain._modules)
    mixed.blocks = nn.ModuleList(plain.blocks)
    mixed.blocks[index] = quantized.blocks[index]
    latents = latents_for(plain)
    assert 0.001 < distance(velocity(mixed, latents), velocity(plain, latents)) < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_model_stays_near_float(dtype: torch.dtype) -> None:
    card = find_card("demo")
    quantized = loading.build_model(card, locate(card, None), 0, CPU, dtype, "fp8")
    plain = loading.build_model(card, locate(card, None), 0, CPU, torch.float32)
    latents = latents_for(plain)
    assert 0.005 < distance(velocity(quantized, latents), velocity(plain, latents)) < 0.05


def test_a_session_is_repeated_exactly() -> None:
    first, second = (
        run_blocks(make_runner(CARD, 1, model=in_fp8(tiny_model(CARD))), 4, {5: (1, "immediate")})
        for _ in range(2)
    )
    plain = run_blocks(make_runner(CARD, 1, model=tiny_model(CARD)), 4, {5: (1, "immediate")})
    for block, latents in first.items():
        assert torch.equal(second[block], latents)
        assert 0 < distance(latents, plain[block]) < 0.06


# What stays as it was.


def test_the_layers_linears_are_in_fp8_and_nothing_else() -> None:
    dims = CARD.transformer
    plain = tiny_model(CARD)
    quantized = in_fp8(plain)
    for name, module in linears(quantized):
        assert isinstance(module, Fp8Linear) == name.startswith("blocks."), name
    weights_in_fp8 = [p for p in quantized.parameters() if p.dtype is torch.float8_e4m3fn]
    in_a_layer = 8 * dims.dim**2 + 2 * dims.dim * dims.ffn_dim  # q k v o, twice, and the feed-forward
    assert sum(weight.numel() for weight in weights_in_fp8) == dims.num_layers * in_a_layer
    before = plain.state_dict()
    for name, tensor in quantized.state_dict().items():
        if not name.endswith("_scale") and tensor.dtype is not torch.float8_e4m3fn:
            assert torch.equal(tensor, before[name]), name


def test_keys_and_values_are_in_the_compute_type() -> None:
    card = find_card("demo")
    model = loading.build_model(card, locate(card, None), 0, CPU, torch.bfloat16, "fp8")
    kinds = set()

    def attend(layer: int, *query_key_value: Tensor) -> Tensor:
        kinds.update(part.dtype for part in query_key_value)
        return attend_to_own(layer, *query_key_value)

    text = model.embed_text(random(5, card.transformer.text_dim))
    turns = RotaryTable(3, 6, 6, card.transformer.head_dim, CPU).turns([0])
    conditioning = Conditioning(*model.embed_time([625.0]), turns, (text,))
    with torch.inference_mode():
        model(latents_for(model, 1), conditioning, attend)
    assert kinds == {part.dtype for layer in text for part in layer} == {torch.bfloat16}


# Loading.


def test_a_checkpoint_in_fp8_is_what_becomes_of_the_loaded_model(
    demo: tuple[CausalWanModel, CausalWanModel],
) -> None:
    plain, quantized = demo
    expected = in_fp8(plain).state_dict()
    actual = quantized.state_dict()
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name].float(), tensor.float()), name


@pytest.mark.parametrize("from_files", [True, False], ids=["files", "random"])
def test_one_matrix_at_a_time_is_here_in_full(from_files: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that loading takes no more memory than what it leaves, and one matrix."""
    alive: list[weakref.ref[Tensor]] = []

    def watched(x: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        assert [ref for ref in alive if ref() is not None] == []
        alive.append(weakref.ref(x))
        return fp8.quantize(x, dim)

    monkeypatch.setattr(weights, "quantize", watched)
    card = find_card("demo")
    files = locate(card, None) if from_files else None
    model = loading.build_model(card, files, 0, CPU, torch.bfloat16, "fp8")
    assert len(alive) == sum(isinstance(module, Fp8Linear) for _, module in linears(model))


@pytest.mark.parametrize("how", ["none", "fp8"])
def test_loading_14b_takes_what_was_asked_for_and_one_matrix(how: Quantize) -> None:
    """At full size, on a GPU that is not there: what the allocator would hold at most."""
    card = find_card("krea-14b")
    with counting_cuda() as counter, counter.counting() as counts:
        loading.build_model(card, None, 0, CUDA, torch.bfloat16, how)
    with torch.device("meta"):
        model = CausalWanModel(card.transformer)
        if how == "fp8":
            quantize_model(model)
    asked = loading.loaded_bytes(model, torch.bfloat16)
    one_matrix = card.transformer.dim * card.transformer.ffn_dim * (2 + 4)  # and divided by its scales
    assert asked <= counts.peak_bytes <= 1.001 * asked + (one_matrix if how == "fp8" else 0)


def test_random_weights_in_fp8_are_the_random_weights() -> None:
    plain, quantized = (
        loading.build_model(CARD, None, 5, CPU, torch.float32, how) for how in ("none", "fp8")
    )
    latents = latents_for(plain)
    assert distance(velocity(quantized, latents), velocity(plain, latents)) < 0.06


@pytest.mark.parametrize("name", ["demo", "longlive-1.3b", "krea-14b"])
def test_bytes_follow_from_the_dimensions(name: str) -> None:
    """What `cascade-engine models` says, counted on the model itself."""
    card = find_card(name)
    with torch.device("meta"):
        model = CausalWanModel(card.transformer)
        quantize_model(model)
    sizes = {torch.float8_e4m3fn: 1, torch.float32: 2}  # what is not in FP8 will be in bfloat16
    counted = sum(sizes[p.dtype] * p.numel() for p in model.parameters())
    scales = sum(p.numel() for key, p in model.named_parameters() if key.endswith("_scale"))
    assert weights_bytes(card.transformer, fp8=True) == counted + 2 * scales


def test_memory_is_asked_for_in_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda device, num_ranks: 10 * 2**30)
    with pytest.raises(InvalidConfig, match=r"model krea-14b: its weights take 13\.\d GiB on each rank"):
        loading.build_model(find_card("krea-14b"), None, 0, CPU, torch.bfloat16, "fp8")


# Where it cannot be.


def on_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], **settings: Any) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    config = make(EngineConfig, {"model": "demo", "quantize": "fp8"} | settings)
    check_fp8(config, CUDA, loading.pick_dtype(config, CUDA))


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0), (12, 0)])
def test_gpus_with_fp8_are_taken(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch, capability)


def test_gpus_without_fp8_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (
        r"^quantize: fp8 needs GPUs of compute capability 8\.9 or newer .*NVIDIA A100 has 8\.0; set it to"
    )
    with pytest.raises(InvalidConfig, match=expected):
        on_gpu(monkeypatch, (8, 0))
    on_gpu(monkeypatch, (8, 0), quantize="none")


def test_float32_on_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidConfig, match=r"^quantize: fp8 on a GPU needs dtype bfloat16"):
        on_gpu(monkeypatch, (9, 0), dtype="float32")
