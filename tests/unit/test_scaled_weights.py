"""FP8 files of torchao: read without it, into what it would have made of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cascade_core.errors import WeightsError
from cascade_core.fp8 import FP8, quantize
from cascade_core.model.fp8 import Fp8Linear, quantize_model
from cascade_core.model.model import CausalWanModel
from cascade_core.weights.checkpoint import read_tensors
from cascade_core.weights.lora import Update, merge
from cascade_core.weights.scaled import ScaledTensor
from cascade_core.weights.weights import load_state
from tests.support import CPU, tiny_card, tiny_model

CARD = tiny_card(dim=32, ffn_dim=64, num_layers=1)
SAID = {
    "_type": "Float8Tensor",
    "_data": {
        "block_size": [1, 32],
        "mm_config": None,
        "act_quant_kwargs": None,
        "kernel_preference": {"_type": "KernelPreference", "_data": "AUTO"},
        "dtype": {"_type": "torch.dtype", "_data": "bfloat16"},
    },
    "_tensor_data_names": ["qdata", "scale"],
}
"""As torchao 0.18 writes it, of a Linear quantized by row."""
Quantized = dict[str, tuple[Tensor, Tensor]]


def write(path: Path, state: dict[str, Tensor], dim: tuple[int, ...] = (1,), said: Any = SAID) -> Quantized:
    """As torchao's `flatten_tensor_state_dict` has it: the layers' Linears in FP8, the others as they are."""
    tensors: dict[str, Tensor] = {}
    quantized: Quantized = {}
    metadata = {"tensor_names": json.dumps([*state])}
    for name, tensor in state.items():
        module, _, own = name.rpartition(".")
        if name.startswith("blocks.") and tensor.dim() == 2:
            quantized[name] = coded, scale = quantize(tensor, dim)
            tensors |= {f"{module}._{own}_qdata": coded, f"{module}._{own}_scale": scale}
            metadata[name] = json.dumps(said)
        else:
            tensors[name], metadata[name] = tensor.clone(), json.dumps({"_type": "Tensor"})
    save_file(tensors, path, metadata)
    return quantized


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tiny_model(CARD).state_dict().items()}


def loaded(path: Path, dtype: torch.dtype, *, in_fp8: bool) -> CausalWanModel:
    with torch.device("meta"):
        model = CausalWanModel(CARD.transformer)
        if in_fp8:
            quantize_model(model)
    load_state(model, read_tensors(path), path, CPU, dtype)
    return model


@pytest.mark.parametrize("dim", [(1,), (0, 1)])
def test_it_is_the_product_of_values_and_scales(
    state: dict[str, Tensor], dim: tuple[int, ...], tmp_path: Path
) -> None:
    """By row and by tensor."""
    quantized = write(tmp_path / "fp8.safetensors", state, dim)
    model = loaded(tmp_path / "fp8.safetensors", torch.bfloat16, in_fp8=False)
    for name, parameter in model.state_dict().items():
        coded, scale = quantized.get(name, (state[name], torch.ones(())))
        assert torch.equal(parameter, (coded.float() * scale).to(torch.bfloat16)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engines_own_fp8_has_the_files_very_numbers(
    state: dict[str, Tensor], dtype: torch.dtype, tmp_path: Path
) -> None:
    quantized = write(tmp_path / "fp8.safetensors", state)
    model = loaded(tmp_path / "fp8.safetensors", dtype, in_fp8=True)
    linears = {name: child for name, child in model.named_modules() if isinstance(child, Fp8Linear)}
    assert {f"{name}.weight" for name in linears} == quantized.keys()
    for name, linear in linears.items():
        coded, scale = quantized[f"{name}.weight"]
        assert torch.equal(linear.weight.view(torch.uint8), coded.view(torch.uint8))
        assert torch.equal(linear.weight_scale, scale)


def test_by_tensor_it_is_quantized_anew(state: dict[str, Tensor], tmp_path: Path) -> None:
    quantized = write(tmp_path / "fp8.safetensors", state, (0, 1))
    model = loaded(tmp_path / "fp8.safetensors", torch.float32, in_fp8=True)
    for name, (coded, scale) in quantized.items():
        linear = model.get_submodule(name.removesuffix(".weight"))
        assert isinstance(linear, Fp8Linear)
        expected = coded.float() * scale
        found = linear.weight.float() * linear.weight_scale
        assert (found - expected).norm() < 0.05 * expected.norm()


def test_until_it_is_used_it_takes_what_the_file_takes(tmp_path: Path) -> None:
    write(tmp_path / "fp8.safetensors", {"blocks.0.ffn.0.weight": torch.randn(32, 64)})
    tensor = read_tensors(tmp_path / "fp8.safetensors")["blocks.0.ffn.0.weight"]
    assert isinstance(tensor, ScaledTensor)
    assert (tensor.dtype, tensor.coded.dtype, tensor.shape) == (torch.float32, FP8, (32, 64))
    assert type(tensor + 1) is Tensor
    assert nn.Parameter(tensor.to(torch.bfloat16)).dtype is torch.bfloat16


def test_a_lora_is_merged_into_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    name = "blocks.0.ffn.0.weight"
    quantized = write(tmp_path / "fp8.safetensors", state)
    a, b = torch.randn(2, 32), torch.randn(64, 2)
    read = read_tensors(tmp_path / "fp8.safetensors")
    merged = merge(read, [Update(name, 0.5, b, a)])[name]
    coded, scale = quantized[name]
    assert torch.equal(merged, (coded.float() * scale + 0.5 * (b @ a)).to(torch.bfloat16))


@pytest.mark.parametrize(
    ("said", "left_out", "message"),
    [
        (
            {"_type": "Int4Tensor"},
            "",
            "blocks.0.a.weight: torchao's Int4Tensor is not supported; take the file",
        ),
        (SAID, "blocks.0.a._weight_scale", "blocks.0.a._weight_scale is not there"),
        ({"_type": "Tensor"}, "", "blocks.0.a.weight is not there"),
    ],
)
def test_what_it_is_not_says_so(said: Any, left_out: str, message: str, tmp_path: Path) -> None:
    coded, scale = quantize(torch.randn(4, 8), (1,))
    tensors = {"blocks.0.a._weight_qdata": coded, "blocks.0.a._weight_scale": scale}
    tensors.pop(left_out, None)
    metadata = {"tensor_names": json.dumps(["blocks.0.a.weight"]), "blocks.0.a.weight": json.dumps(said)}
    save_file(tensors, tmp_path / "w.safetensors", metadata)
    with pytest.raises(WeightsError, match=rf"w\.safetensors: {message}"):
        read_tensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "metadata", [{"tensor_names": "no JSON"}, {"tensor_names": '["a.b"]'}, {"tensor_names": "[3]"}]
)
def test_hostile_metadata_is_one_sentence(metadata: dict[str, str], tmp_path: Path) -> None:
    save_file({"a.b": torch.zeros(2)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        read_tensors(tmp_path / "w.safetensors")


def test_other_scales_are_refused(tmp_path: Path) -> None:
    tensors = {"a._weight_qdata": torch.zeros(4, 8).to(FP8), "a._weight_scale": torch.ones(4, 2)}
    metadata = {"tensor_names": '["a.weight"]', "a.weight": json.dumps(SAID)}
    save_file(tensors, tmp_path / "w.safetensors", metadata)
    with pytest.raises(WeightsError, match=r"a\.weight: .*\[4, 8\] with scales .*\[4, 2\] is not supported"):
        read_tensors(tmp_path / "w.safetensors")
