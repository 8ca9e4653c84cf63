"""Every published checkpoint form loads to the same state; every bad file is refused by name."""

import os
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from cascade_core.attention.rope import RotaryTable
from cascade_core.errors import WeightsError
from cascade_core.fp8 import quantize
from cascade_core.model.fp8 import quantize_model
from cascade_core.model.model import CausalWanModel, Conditioning, keep_float32
from cascade_core.ranks.loading import build_model
from cascade_core.weights.checkpoint import read_tensors
from cascade_core.weights.locate import ModelFiles
from cascade_core.weights.weights import (
    load_state,
    randomize,
    read_text_encoder,
    read_transformer,
    read_vae,
)
from tests.unit.tiny_wan import DIMS, State, assert_same, make_card, meta_model, random_state, saved

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state() -> State:
    return random_state()


def velocity(state: State) -> Tensor:
    """What a model with this state computes for two blocks, with plain attention."""
    model = meta_model()
    load_state(model, state, "test", CPU, torch.float32, keep_float32)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 1, 4, 4, 4, generator=generator)
    time, modulation = model.embed_time([1000.0, 500.0])
    text = model.embed_text(torch.randn(3, 8, generator=generator))
    turns = RotaryTable(1, 2, 2, DIMS.head_dim, CPU).turns([0, 1])

    def attend(_layer: int, *query_key_value: Tensor) -> Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in query_key_value)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    with torch.no_grad():
        output: Tensor = model(latents, Conditioning(time, modulation, turns, (text, text)), attend)
    return output


def as_diffusers(state: State) -> State:
    converted: State = convert_wan_transformer_to_diffusers(dict(state))
    return converted


def diffusers_model(state: State) -> WanTransformer3DModel:
    model = WanTransformer3DModel(
        num_attention_heads=DIMS.num_heads,
        attention_head_dim=DIMS.head_dim,
        in_channels=DIMS.in_channels,
        out_channels=DIMS.in_channels,
        text_dim=DIMS.text_dim,
        freq_dim=DIMS.freq_dim,
        ffn_dim=DIMS.ffn_dim,
        num_layers=DIMS.num_layers,
    )
    model.load_state_dict(as_diffusers(state))
    return model


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def fsdp(state: State) -> State:
    """Wrappers in front and in the middle, as FSDP around every layer leaves them."""
    return {
        "model._fsdp_wrapped_module." + name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): tensor
        for name, tensor in state.items()
    }


def save_shards(state: State, folder: Path) -> Path:
    folder.mkdir()
    names = sorted(state)
    save_file({name: state[name] for name in names[::2]}, folder / "a.safetensors")
    save_file({name: state[name] for name in names[1::2]}, folder / "b.safetensors")
    return folder


def save_pretrained(state: State, folder: Path, **options: Any) -> Path:
    diffusers_model(state).save_pretrained(folder, **options)
    return folder


def saved_safetensors(state: State, path: Path) -> Path:
    save_file(state, path)
    return path


FORMS: dict[str, Callable[[State, Path], Path]] = {
    "flat pt": lambda s, d: saved(s, d / "w.pt"),
    "legacy pt": lambda s, d: saved(s, d / "w.pt", _use_new_zipfile_serialization=False),
    "card key": lambda s, d: saved({"critic": {}, "mine": prefixed(s, "model.")}, d / "w.pt"),
    "generator": lambda s, d: saved({"generator": prefixed(s, "model.")}, d / "w.pt"),
    "ema before generator": lambda s, d: saved({"generator": {}, "generator_ema": fsdp(s)}, d / "w.pt"),
    "ddp": lambda s, d: saved({"model": prefixed(s, "module.")}, d / "w.pth"),
    "flat safetensors": lambda s, d: saved_safetensors(s, d / "w.safetensors"),
    "prefixed safetensors": lambda s, d: saved_safetensors(prefixed(s, "model."), d / "w.safetensors"),
    "shards without index": lambda s, d: save_shards(s, d / "shards"),
    "diffusers folder": lambda s, d: save_pretrained(s, d / "transformer"),
    "diffusers shards": lambda s, d: save_pretrained(s, d / "transformer", max_shard_size="20KB"),
    "diffusers pt": lambda s, d: saved(as_diffusers(s), d / "w.pt"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_state_and_output(form: str, state: State, tmp_path: Path) -> None:
    path = FORMS[form](state, tmp_path)
    loaded = read_transformer(make_card(key="mine"), ModelFiles(transformer=path))
    assert_same(loaded, state)
    assert torch.equal(velocity(loaded), velocity(state))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_quantized_as_it_is_read(form: str, state: State, tmp_path: Path) -> None:
    files = ModelFiles(transformer=FORMS[form](state, tmp_path))
    model = build_model(make_card(key="mine"), files, 0, CPU, torch.float32, "fp8")
    for name, tensor in model.state_dict().items():
        if tensor.dtype is torch.float8_e4m3fn:
            values, scales = quantize(state[name], dim=(1,))
            assert torch.equal(tensor.float(), values.float()), name
            assert torch.equal(model.state_dict()[f"{name}_scale"], scales), name
        elif not name.endswith("_scale"):
            assert torch.equal(tensor, state[name]), name


def test_diffusers_shards_are_really_several(state: State, tmp_path: Path) -> None:
    folder = FORMS["diffusers shards"](state, tmp_path)
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert list(folder.glob("*.index.json"))


def test_all_key_errors_come_at_once(state: State) -> None:
    wrong = dict(state)
    del wrong["head.head.bias"]
    wrong["blocks.0.extra"] = torch.ones(1)
    wrong["blocks.0.norm3.bias"] = torch.ones(7)
    for name, odd in {
        "blocks.1.norm3.bias": torch.ones(24, dtype=torch.int32),
        "blocks.1.norm3.weight": torch.ones(24, dtype=torch.complex64),
        "blocks.0.ffn.0.weight": state["blocks.0.ffn.0.weight"].to_sparse(),
        "blocks.1.ffn.0.weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "blocks.1.ffn.0.bias": state["blocks.1.ffn.0.bias"].to("meta"),
    }.items():
        wrong[name] = odd
    with pytest.raises(WeightsError) as error:
        load_state(meta_model(), wrong, Path("some/w.pt"), CPU, torch.float32, keep_float32)
    assert str(error.value).startswith(
        "some/w.pt: the checkpoint does not fit the model "
        "(1 missing, 1 surplus, 1 misshapen, 5 not dense floating point); missing: head.head.bias; "
        "surplus: blocks.0.extra; misshapen: blocks.0.norm3.bias [7] instead of [24]; not dense"
    )
    for complaint in (
        "blocks.1.norm3.bias (strided int32)",
        "blocks.1.norm3.weight (strided complex64)",
        "blocks.0.ffn.0.weight (sparse_coo float32)",
        "blocks.1.ffn.0.weight (nested float32)",
        "blocks.1.ffn.0.bias (meta, without values)",
    ):
        assert complaint in str(error.value)


def test_every_wrong_key_is_listed_after_the_count(state: State) -> None:
    with pytest.raises(WeightsError, match=rf"model \({len(state)} missing\); missing: ") as error:
        load_state(meta_model(), {}, "w.pt", CPU, torch.float32, keep_float32)
    assert len(state) > 50
    assert all(name in str(error.value) for name in state)


def test_one_tensor_under_two_names_is_quantized_under_both(state: State) -> None:
    tied = {**state, "blocks.0.self_attn.k.weight": state["blocks.0.self_attn.q.weight"]}
    model = meta_model()
    quantize_model(model)
    load_state(model, tied, "w.pt", CPU, torch.float32, keep_float32)
    assert torch.equal(model.blocks[0].self_attn.k.weight_scale, model.blocks[0].self_attn.q.weight_scale)


@pytest.mark.parametrize("how", ["none", "fp8"])
def test_wrong_keys_are_told_as_the_checkpoint_has_them(how: str, state: State, tmp_path: Path) -> None:
    wrong = {name: tensor for name, tensor in state.items() if name != "blocks.0.ffn.0.weight"}
    path = saved({**wrong, "blocks.1.ffn.0.weight": torch.ones(3, 3)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as error:
        build_model(make_card(), ModelFiles(path), 0, CPU, torch.float32, how)
    assert str(error.value).endswith(
        "(1 missing, 1 misshapen); missing: blocks.0.ffn.0.weight; misshapen: blocks.1.ffn.0.weight [3, 3] "
        "instead of [32, 24]"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_not_finite_are_refused_by_name(dtype: torch.dtype, state: State) -> None:
    wrong = dict(state)
    names = ("blocks.0.ffn.0.weight", "blocks.0.norm3.bias", "head.head.bias")
    for name, values in zip(names, ([torch.nan], [torch.inf], [torch.inf, -torch.inf]), strict=True):
        wrong[name] = state[name].clone()
        wrong[name].view(-1)[: len(values)] = torch.tensor(values)
    with pytest.raises(WeightsError, match=r"^w\.pt: 3 tensors hold NaN or infinity: ") as error:
        load_state(meta_model(), wrong, "w.pt", CPU, dtype, keep_float32)
    assert all(name in str(error.value) for name in names)


def test_the_transformer_file_is_named(state: State, tmp_path: Path) -> None:
    for odd in (torch.ones(24, device="meta"), torch.ones(24, dtype=torch.int8)):
        path = saved({**state, "blocks.0.norm3.bias": odd}, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=r"w\.pt: .*1 not dense .*blocks\.0\.norm3\.bias"):
            build_model(make_card(), ModelFiles(path), 0, CPU, torch.float32)


def test_dtype_and_the_parameters_kept_in_float32(state: State) -> None:
    model = meta_model()
    load_state(model, state, "test", CPU, torch.bfloat16, keep_float32)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if keep_float32(name) else torch.bfloat16), name
        assert torch.equal(parameter, state[name].to(parameter.dtype)), name


def test_random_weights_repeat_and_stay_finite() -> None:
    deep = replace(DIMS, num_layers=40)
    models = []
    for _ in range(2):
        with torch.device("meta"):
            models.append(CausalWanModel(deep))
        randomize(models[-1], 7, CPU, torch.bfloat16, keep_float32)
    first, second = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["blocks.0.norm3.weight"].eq(1).all()
    assert first["blocks.0.ffn.0.bias"].eq(0).all()
    assert float(first["blocks.3.ffn.0.weight"].float().std()) == pytest.approx(24**-0.5, rel=0.1)
    time, modulation = models[0].embed_time([1000.0])
    text = models[0].embed_text(torch.randn(4, 8))
    turns = RotaryTable(1, 2, 2, deep.head_dim, CPU).turns([0])
    conditioning = Conditioning(time, modulation, turns, (text,))
    with torch.no_grad():
        output = models[0](torch.randn(1, 1, 4, 4, 4), conditioning, lambda _layer, _q, _k, v: v)
    assert output.isfinite().all()
    assert 0.05 < float(output.std()) < 20


class Bomb:
    """Leaves a file where it is unpickled by something that executes code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return (os.system, (f"touch {self.marker}",))


@pytest.mark.parametrize(
    "write",
    [
        torch.save,
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
        lambda content, path: path.write_bytes(pickle.dumps(content, protocol=4)),
    ],
    ids=["zip", "legacy", "bare pickle", "bare pickle, newer protocol"],
)
def test_code_in_a_checkpoint_is_refused_and_never_runs(
    write: Callable[[Any, Path], Any], tmp_path: Path
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "bomb.pt"
    write({"generator": {"blocks.0": Bomb(marker)}}, path)
    with pytest.raises(
        WeightsError, match=r"bomb\.pt: (holds pickled code or objects \(posix\.system\)|.*plain tensors)"
    ):
        read_tensors(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "the bomb is no bomb: the test proves nothing"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("model_4o6.pt", "model.blocks.0.ffn.0.quantized_weight_values"),  # LongLive 2.0's, by FourOverSix
        ("w.safetensors", "blocks.0.ffn.0.weight_scale_2"),  # ModelOpt's and ComfyUI's
    ],
)
def test_nvfp4_is_refused_with_what_to_take_instead(name: str, key: str, tmp_path: Path) -> None:
    state = {key: torch.zeros(4, dtype=torch.uint8), "blocks.0.ffn.0.bias": torch.zeros(4)}
    if name.endswith(".pt"):
        torch.save({"checkpoint_format": "longlive_generator_nvfp4", "generator": state}, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    with pytest.raises(WeightsError, match=rf"{name}: NVFP4 \({key}\) is not .*in bf16; quantize: fp8"):
        read_tensors(tmp_path / name, ("generator",))


def test_tensors_of_torchao_are_refused_with_what_to_take_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their classes are code of a package that is not here."""
    module = ModuleType("torchao.quantization")
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kind = type("Float8Tensor", (), {"__module__": module.__name__})
    module.Float8Tensor = kind  # type: ignore[attr-defined]
    torch.save({"blocks.0.ffn.0.weight": kind()}, tmp_path / "fp8.pt")
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=r"fp8\.pt: .*only torchao can read from a pickle; take"):
        read_tensors(tmp_path / "fp8.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused_by_name(name: str, kept: float, state: State, tmp_path: Path) -> None:
    whole = (saved if name == "w.pt" else saved_safetensors)(state, tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(WeightsError, match=rf"{name}: damaged.* fetch it again"):
        read_tensors(tmp_path / name)


def test_wrong_formats_and_contents_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_bytes(b"GGUF")
    (tmp_path / "text.pt").write_bytes(b"<html>404</html>" * 10)
    saved([1, 2], tmp_path / "list.pt")
    saved({"optimizer": {"lr": 1}, "step": 3}, tmp_path / "other.pt")
    saved({"generator": {"blocks.0": 3}}, tmp_path / "ints.pt")
    saved({5: torch.ones(1)}, tmp_path / "numbered.pt")
    saved(dict.fromkeys("abcdefghij", 1), tmp_path / "ten.pt")
    saved(dict.fromkeys("abcdefghijk", 1), tmp_path / "eleven.pt")
    (tmp_path / "empty").mkdir()
    for name, complaint in {
        "w.gguf": "unknown format",
        "text.pt": "not a PyTorch checkpoint",
        "list.pt": "holds a list",
        "other.pt": "none of generator at its top level, which has: optimizer, step",
        "ints.pt": "not tensors: blocks.0",
        "numbered.pt": "not flat",
        "ten.pt": "which has: a, b, c, d, e, f, g, h, i, j$",
        "eleven.pt": "which has: a, b, c, d, e, f, g, h, i, j and 1 more$",
        "absent.pt": "no such file",
        "empty": "no .safetensors file",
    }.items():
        with pytest.raises(WeightsError, match=f"{name}: .*{complaint}"):
            read_tensors(tmp_path / name, ["generator"])


def test_incomplete_and_doubled_shards_are_refused(state: State, tmp_path: Path) -> None:
    folder = FORMS["diffusers shards"](state, tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(WeightsError, match=f"the index names {shard.name}, not there"):
        read_tensors(folder)
    shard.write_bytes(content)
    index = next(folder.glob("*.index.json"))
    (folder / "other.safetensors.index.json").write_text(index.read_text())
    with pytest.raises(WeightsError, match="2 safetensors indexes"):
        read_tensors(folder)
    (folder / "other.safetensors.index.json").unlink()
    for damage in (
        "[]",
        "cut",
        "[" * 100_000,
        '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": 5, "b": "c"}}',
        '{"weight_map": {"a": []}}',
        f'{{"weight_map": {{"a": "{"long" * 100}"}}}}',
    ):
        index.write_text(damage)
        with pytest.raises(WeightsError, match=rf"^reading .*{re.escape(index.name)} failed: [^\n]*$"):
            read_tensors(folder)
    index.unlink()
    (folder / "copy.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="repeats"):
        read_tensors(folder)


def test_two_prefixes_of_one_name_are_refused(state: State, tmp_path: Path) -> None:
    path = saved({**state, **prefixed(state, "model.")}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w\.pt: .* occurs twice"):
        read_transformer(make_card(), ModelFiles(transformer=path))


ORIGINAL_UMT5 = {
    "shared.": "token_embedding.",
    "encoder.final_layer_norm.": "norm.",
    "encoder.block.": "blocks.",
    "layer.0.SelfAttention.relative_attention_bias.": "pos_embedding.embedding.",
    "layer.0.SelfAttention.": "attn.",
    "layer.0.layer_norm.": "norm1.",
    "layer.1.layer_norm.": "norm2.",
    "layer.1.DenseReluDense.wi_0.": "ffn.gate.0.",
    "layer.1.DenseReluDense.wi_1.": "ffn.fc1.",
    "layer.1.DenseReluDense.wo.": "ffn.fc2.",
}


def original_umt5(model: UMT5EncoderModel) -> State:
    original = {}
    for key, tensor in model.state_dict().items():
        name = key
        for ours, theirs in ORIGINAL_UMT5.items():
            name = name.replace(ours, theirs)
        original[name] = tensor
    del original["encoder.embed_tokens.weight"]
    return original


def test_original_umt5_fills_the_transformers_model(tmp_path: Path) -> None:
    config = UMT5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4)
    torch.manual_seed(3)
    model = UMT5EncoderModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    original = original_umt5(model)
    assert {
        "token_embedding.weight",
        "norm.weight",
        "blocks.1.pos_embedding.embedding.weight",
    } <= original.keys()
    path = saved(original, tmp_path / "umt5.pth")

    with torch.device("meta"):
        loaded = UMT5EncoderModel(config).eval()
    load_state(loaded, read_text_encoder(path), path, CPU, torch.float64)
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    assert loaded.shared.weight.data_ptr() == loaded.encoder.embed_tokens.weight.data_ptr()
    model = model.double()
    tokens = torch.tensor([[5, 9, 2, 1]])
    with torch.no_grad():
        assert torch.equal(loaded(tokens).last_hidden_state, model(tokens).last_hidden_state)


def test_another_text_encoder_is_refused_by_name(state: State, tmp_path: Path) -> None:
    path = saved(state, tmp_path / "umt5.pth")
    with pytest.raises(WeightsError, match=r"umt5\.pth: no token_embedding"):
        read_text_encoder(path)


def original_vae_names(num_blocks: int) -> list[str]:
    """Every name an original Wan VAE could have."""
    residual = [
        f"residual.{part}" for part in ("0.gamma", "2.weight", "2.bias", "3.gamma", "6.weight", "6.bias")
    ]
    conv = ["weight", "bias"]
    single = [f"conv{n}.{end}" for n in (1, 2) for end in conv]
    side = [f"conv1.{end}" for end in conv] + ["head.0.gamma"] + [f"head.2.{end}" for end in conv]
    side += [f"middle.{n}.{part}" for n in (0, 2) for part in residual]
    side += ["middle.1.norm.gamma"] + [
        f"middle.1.{part}.{end}" for part in ("to_qkv", "proj") for end in conv
    ]
    inner = residual + [f"{part}.{end}" for part in ("shortcut", "resample.1", "time_conv") for end in conv]
    steps = {"encoder": "downsamples", "decoder": "upsamples"}
    for coder, name in steps.items():
        single += [f"{coder}.{part}" for part in side]
        single += [f"{coder}.{name}.{n}.{part}" for n in range(num_blocks) for part in inner]
    return single


def test_original_vae_fills_the_diffusers_model(tmp_path: Path) -> None:
    config = {"base_dim": 8, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    torch.manual_seed(4)
    model = AutoencoderKLWan(**config)
    names = convert_wan_vae_to_diffusers({name: name for name in original_vae_names(16)})
    original = {names[key]: tensor for key, tensor in model.state_dict().items()}
    path = saved(original, tmp_path / "Wan2.1_VAE.pth")
    loaded = read_vae(path)
    assert_same(loaded, dict(model.state_dict()))
    with torch.device("meta"):
        empty = AutoencoderKLWan(**config)
    load_state(empty, loaded, path, CPU, torch.float32)
    assert_same(dict(empty.state_dict()), loaded)
