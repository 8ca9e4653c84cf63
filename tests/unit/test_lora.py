"""LoRA files as people have them add what their makers mean, or are refused by file and key."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import save_file
from torch import Tensor

from cascade_core.config import LoraConfig, find_card
from cascade_core.errors import InvalidConfig, WeightsError
from cascade_core.fp8 import quantize
from cascade_core.model.model import keep_float32
from cascade_core.ranks.loading import build_model
from cascade_core.weights.layouts import find_parameters
from cascade_core.weights.locate import locate
from cascade_core.weights.weights import load_state, read_transformer
from tests.unit.tiny_wan import State, assert_same, make_card, meta_model, random_state, saved

RANK = 3
CPU = torch.device("cpu")
STATE = random_state()
LINEARS = [
    name.removesuffix(".weight") for name in STATE if name.endswith(".weight") and STATE[name].dim() == 2
]
"""All layers that LoRAs are trained on, inside the blocks and around them."""
LAYER_LINEARS = [name for name in LINEARS if name.startswith("blocks.")]
Q, FFN = "blocks.0.self_attn.q", "blocks.1.ffn.0"


def pair(layer: str, rank: int = RANK) -> tuple[Tensor, Tensor]:
    """A and B of a layer, the same at each call."""
    generator = torch.Generator().manual_seed(LINEARS.index(layer))
    fan_out, fan_in = STATE[f"{layer}.weight"].shape
    return torch.randn(rank, fan_in, generator=generator), torch.randn(fan_out, rank, generator=generator)


def with_pairs(layers: list[str], scale: float, state: State = STATE) -> State:
    """By hand: W + scale * B @ A."""
    merged = dict(state)
    for layer in layers:
        a, b = pair(layer)
        merged[f"{layer}.weight"] = state[f"{layer}.weight"] + scale * (b @ a)
    return merged


def diffusers_name(layer: str) -> str:
    """As diffusers itself renames a checkpoint."""
    (name,) = convert_wan_transformer_to_diffusers({f"{layer}.weight": 0})
    return str(name).removesuffix(".weight")


def flat(layer: str) -> str:
    return layer.replace(".", "_")


def written(tensors: State, path: Path, metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".pt":
        return saved(tensors, path)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def merged(
    folder: Path,
    *files: State | Mapping[str, Any],
    base: State = STATE,
    name: str = "lora.safetensors",
    **options: Any,
) -> State:
    """What a user gets who puts these LoRA files beside a checkpoint and names them in a card."""
    configs = []
    for number, tensors in enumerate(files):
        path = written(dict(tensors), folder / f"{number}-{name}")
        configs.append(LoraConfig(repo="owner/name", path=path.name, **options))
    saved(base, folder / "base.pt")
    card = make_card("base.pt", lora=configs)
    return read_transformer(card, locate(card, str(folder)))


Rename = Callable[[str], str]
PEFT = ("lora_A.weight", "lora_B.weight")
NAMED = ("lora_A.default.weight", "lora_B.default.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")
FORMS: dict[str, tuple[Rename, tuple[str, str]]] = {
    "diffusion-pipe, ai-toolkit": (lambda layer: f"diffusion_model.{layer}", PEFT),
    "Kijai": (lambda layer: f"diffusion_model.{layer}", KOHYA),
    "ComfyUI": (lambda layer: f"model.diffusion_model.{layer}", KOHYA),
    "kohya": (lambda layer: f"lora_unet_{flat(layer)}", KOHYA),
    "kohya of diffusers": (lambda layer: f"lora_transformer_{flat(diffusers_name(layer))}", KOHYA),
    "diffusers": (lambda layer: f"transformer.{diffusers_name(layer)}", PEFT),
    "diffusers of a model": (diffusers_name, NAMED),
    "peft": (lambda layer: f"base_model.model.{layer}", PEFT),
    "peft of a pipeline's part": (
        lambda layer: f"base_model.model.transformer.{diffusers_name(layer)}",
        PEFT,
    ),
    "DiffSynth": (lambda layer: layer, NAMED),
    "LongLive": (lambda layer: f"base_model.model.model.{layer}", PEFT),
    "FSDP": (lambda layer: f"base_model.model._fsdp_wrapped_module.{layer}", NAMED),
    "FSDP inside": (lambda layer: layer.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."), PEFT),
}


def lora(form: str, layers: list[str] = LINEARS, alpha: float | None = None) -> State:
    rename, ends = FORMS[form]
    tensors: State = {}
    for layer in layers:
        tensors |= {f"{rename(layer)}.{end}": half for end, half in zip(ends, pair(layer), strict=True)}
        if alpha is not None:
            tensors[f"{rename(layer)}.alpha"] = torch.tensor(alpha)
    return tensors


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("alpha", "scale"), [(6.0, 2.0), (6, 2.0), (None, 1.0)])
def test_every_form_is_merged_with_its_own_scale(
    form: str, alpha: float | None, scale: float, tmp_path: Path
) -> None:
    """Also whole numbers: kohya writes its alpha as it was given."""
    assert_same(merged(tmp_path, lora(form, alpha=alpha)), with_pairs(LINEARS, scale))


def test_one_key_alone_is_understood() -> None:
    """Also where it is all that tells diffusers' names from ours."""
    for form, (rename, _) in FORMS.items():
        for layer in LINEARS:
            assert find_parameters([f"{rename(layer)}.weight"], STATE) == [f"{layer}.weight"], form


def test_it_is_merged_before_weights_are_quantized(tmp_path: Path) -> None:
    saved(STATE, tmp_path / "base.pt")
    written(lora("peft", LAYER_LINEARS), tmp_path / "style.safetensors")
    card = make_card("base.pt", lora=[LoraConfig(repo="owner/name", path="style.safetensors")])
    model = build_model(card, locate(card, str(tmp_path)), 0, CPU, torch.float32, "fp8")
    for layer in LAYER_LINEARS:
        values, scales = quantize(with_pairs([layer], 1.0)[f"{layer}.weight"], dim=(1,))
        assert torch.equal(model.get_parameter(f"{layer}.weight").float(), values.float())
        assert torch.equal(model.get_parameter(f"{layer}.weight_scale"), scales)


def test_ranks_may_differ_from_layer_to_layer(tmp_path: Path) -> None:
    """As where a LoRA was cut out of a difference, or made smaller."""
    file, expected = {}, dict(STATE)
    for rank, layer in enumerate(LINEARS, start=1):
        a, b = pair(layer, rank)
        file |= {f"{layer}.lora_down.weight": a, f"{layer}.lora_up.weight": b}
        file[f"{layer}.alpha"] = torch.tensor(2.0, dtype=torch.bfloat16)
        expected[f"{layer}.weight"] = STATE[f"{layer}.weight"] + 2.0 / rank * (b @ a)
    assert_same(merged(tmp_path, file), expected)


@pytest.mark.parametrize("name", ["lora.pt", "lora.bin", "lora.ckpt", "lora.safetensors"])
@pytest.mark.parametrize("key", ["generator_lora", "mine", None])
def test_where_a_file_keeps_its_tensors(name: str, key: str | None, tmp_path: Path) -> None:
    tensors = lora("LongLive")
    if name == "lora.safetensors":
        written(tensors, tmp_path / name)
    else:
        saved({key: tensors, "step": 3} if key else tensors, tmp_path / name)
    saved(STATE, tmp_path / "base.pt")
    config = LoraConfig(repo="owner/name", path=name, key="mine", rank=RANK, alpha=6.0)
    card = make_card("base.pt", lora=[config])
    assert_same(read_transformer(card, locate(card, str(tmp_path))), with_pairs(LINEARS, 2.0))


def test_the_cards_alpha_is_for_files_that_tell_none(tmp_path: Path) -> None:
    plain, told = lora("peft", [Q]), lora("Kijai", [FFN], alpha=3.0)
    assert_same(
        merged(tmp_path, plain | told, alpha=6.0),
        with_pairs([FFN], 1.0, with_pairs([Q], 2.0)),
    )


def test_several_files_add_up_each_with_its_strength(tmp_path: Path) -> None:
    first, second = lora("Kijai", [Q], alpha=6.0), lora("diffusers", [Q, FFN])
    result = merged(tmp_path, first, second, strength=-0.5)
    a, b = pair(Q)
    torch.testing.assert_close(result[f"{Q}.weight"], STATE[f"{Q}.weight"] - 1.5 * (b @ a))
    assert_same({**result, f"{Q}.weight": STATE[f"{Q}.weight"]}, with_pairs([FFN], -0.5))


def test_a_card_names_one_file_or_several(tmp_path: Path) -> None:
    text = Path("cascade_core/cards/longlive-1.3b.toml").read_text()
    one = find_card("longlive-1.3b").files
    path = tmp_path / "mine.toml"
    more = '[[files.lora]]\nrepo = "a/style"\npath = "style.safetensors"\nstrength = 0.8\n\n[files.vae]'
    path.write_text(text.replace("[files.lora]", "[[files.lora]]").replace("[files.vae]", more))
    several = find_card(str(path)).files
    assert one
    assert several
    assert several.lora == (*one.lora, LoraConfig(repo="a/style", path="style.safetensors", strength=0.8))
    path.write_text(text.replace("rank = 256", "strength = nan"))
    with pytest.raises(InvalidConfig, match=r"files\.lora\.0\.strength: .* finite"):
        find_card(str(path))


def test_the_sum_is_made_in_float32_and_cast_once(tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in STATE.items()}
    first, second = lora("Kijai", [Q], alpha=0.01), lora("diffusers", [Q])
    a, b = pair(Q)
    expected = half[f"{Q}.weight"].float() + (0.01 / RANK) * (b @ a) + b @ a
    result = merged(tmp_path, first, second, base=half)
    assert torch.equal(result[f"{Q}.weight"], expected.bfloat16())


def test_an_eight_bit_checkpoint_does_not_swallow_what_is_added(tmp_path: Path) -> None:
    narrow = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in STATE.items()}
    result = merged(tmp_path, {key: half.half() for key, half in lora("Kijai", [Q]).items()}, base=narrow)
    a, b = (half.half().float() for half in pair(Q))
    assert torch.equal(result[f"{Q}.weight"], (narrow[f"{Q}.weight"].float() + b @ a).bfloat16())
    model = meta_model()
    load_state(model, result, "test", CPU, torch.bfloat16, keep_float32)
    assert torch.equal(model.state_dict()[f"{FFN}.weight"], narrow[f"{FFN}.weight"].bfloat16())


DIFFERENCES = {
    "blocks.0.norm3.diff": "blocks.0.norm3.weight",
    "blocks.0.norm3.diff_b": "blocks.0.norm3.bias",
    "blocks.1.norm3.w_norm": "blocks.1.norm3.weight",
    "blocks.1.norm3.b_norm": "blocks.1.norm3.bias",
    "blocks.1.self_attn.norm_q.diff": "blocks.1.self_attn.norm_q.weight",
    f"{Q}.diff_b": f"{Q}.bias",
    f"{FFN}.diff": f"{FFN}.weight",
    "patch_embedding.diff": "patch_embedding.weight",
    "patch_embedding.diff_b": "patch_embedding.bias",
    "time_projection.1.diff_b": "time_projection.1.bias",
    "head.head.diff": "head.head.weight",
    "blocks.1.diff_m": "blocks.1.modulation",
    "head.diff_m": "head.modulation",
}


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "lora_unet_"])
def test_whole_differences_are_added(prefix: str, tmp_path: Path) -> None:
    file, expected = lora("Kijai", [Q], alpha=6.0), with_pairs([Q], 2.0)
    for key, name in DIFFERENCES.items():
        layer, _, end = key.rpartition(".")
        difference = torch.randn_like(STATE[name])
        file[f"{prefix}{flat(layer) if prefix == 'lora_unet_' else layer}.{end}"] = difference
        expected[name] = STATE[name] + difference
    assert_same(merged(tmp_path, file), expected)


def test_the_norm_that_diffusers_numbers_otherwise(tmp_path: Path) -> None:
    difference = torch.randn_like(STATE["blocks.0.norm3.weight"])
    file = lora("diffusers", [Q]) | {"transformer.blocks.0.norm2.diff": difference}
    assert torch.equal(
        merged(tmp_path, file)["blocks.0.norm3.weight"], STATE["blocks.0.norm3.weight"] + difference
    )


def test_a_convolutions_update_is_its_two_halves_in_turn(tmp_path: Path) -> None:
    weight = STATE["patch_embedding.weight"]
    down, up = torch.randn(RANK, *weight.shape[1:]), torch.randn(len(weight), RANK, 1, 1, 1)
    file = {"diffusion_model.patch_embedding.lora_down.weight": down}
    file["diffusion_model.patch_embedding.lora_up.weight"] = up
    file["diffusion_model.patch_embedding.alpha"] = torch.tensor(6.0)
    latents = torch.randn(1, 4, 1, 8, 8)
    stride = (1, 2, 2)
    expected = F.conv3d(latents, weight, stride=stride) + 2 * F.conv3d(
        F.conv3d(latents, down, stride=stride), up
    )
    result = merged(tmp_path, file)["patch_embedding.weight"]
    torch.testing.assert_close(F.conv3d(latents, result, stride=stride), expected)


def as_diffusers_adds(state: State, converted: State) -> State:
    """A diffusers state with what its own converter says of a LoRA file: scales are in the halves."""
    added = dict(state)
    for key, b in converted.items():
        name = key.removeprefix("transformer.")
        if name.endswith(".lora_B.weight"):
            layer = name.removesuffix(".lora_B.weight")
            added[f"{layer}.weight"] = (
                state[f"{layer}.weight"] + b @ converted[key.replace("lora_B", "lora_A")]
            )
        elif name.endswith(".lora_B.bias"):
            layer = name.removesuffix(".lora_B.bias")
            added[f"{layer}.bias"] = state[f"{layer}.bias"] + b
    return added


@pytest.mark.parametrize("form", ["Kijai", "kohya", "diffusion-pipe, ai-toolkit"])
def test_diffusers_reads_the_same_out_of_the_file(form: str, tmp_path: Path) -> None:
    file = lora(form, LAYER_LINEARS, alpha=None if "pipe" in form else 1.5)
    if form != "kohya":
        file |= {
            f"diffusion_model.{layer}.diff_b": torch.randn_like(STATE[f"{layer}.bias"])
            for layer in LAYER_LINEARS
        }
    convert = (
        _convert_musubi_wan_lora_to_diffusers
        if form == "kohya"
        else _convert_non_diffusers_wan_lora_to_diffusers
    )
    converted: State = convert({key: tensor.clone() for key, tensor in file.items()})
    expected = as_diffusers_adds(convert_wan_transformer_to_diffusers(dict(STATE)), converted)
    result: State = convert_wan_transformer_to_diffusers(merged(tmp_path, file))
    assert result.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], msg=name)


ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 6,
    "init_lora_weights": "gaussian",
    "target_modules": ["q"],
    "rank_pattern": {},
    "alpha_pattern": None,
}


def in_folder(tensors: State, told: object, folder: Path, encoding: str = "utf-8") -> State:
    """Merged from a file with PEFT's configuration beside it."""
    text = told if isinstance(told, str) else json.dumps(told)
    (folder / "adapter_config.json").write_text(text, encoding)
    return merged(folder, tensors, name="adapter_model.safetensors")


@pytest.mark.parametrize(
    ("told", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (6 / math.sqrt(3), 6 / math.sqrt(3))),
        ({"alpha_pattern": {"ffn.0": 1.5}}, (2.0, 0.5)),
        ({"alpha_pattern": {"^blocks.0.self_attn.q": 1.5, "nothing": 8}}, (0.5, 2.0)),
        ({"alpha_pattern": {r".*\.(q|k)": 0.75, "q": 8}}, (0.25, 2.0)),
        ({"r": 8, "rank_pattern": {"q": RANK, r"ffn\.[02]": RANK}}, (2.0, 2.0)),
    ],
)
def test_pefts_configuration_gives_the_scale(
    told: dict[str, Any], scales: tuple[float, float], tmp_path: Path
) -> None:
    result = in_folder(lora("peft", [Q, FFN]), ADAPTER | told, tmp_path)
    expected = with_pairs([FFN], scales[1], with_pairs([Q], scales[0]))
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], msg=name)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", [r"(.*)*x", r"((\w+)*\.?)*#", r"(.*a){24}", r"(.|\w)+(.|\w)+(.|\w)+#"])
def test_no_pattern_of_a_file_stalls_the_start(pattern: str, tmp_path: Path) -> None:
    """Python's engine takes years for some of them, of which a thread cannot be stopped."""
    told = ADAPTER | {"alpha_pattern": {pattern: 9}, "rank_pattern": {pattern: 9}}
    assert_same(in_folder(lora("peft", [Q, FFN]), told, tmp_path), with_pairs([Q, FFN], 2.0))


@pytest.mark.timeout(20)
def test_nor_does_a_key(tmp_path: Path) -> None:
    key = "diffusion_model" + ".lora_B" * 100_000 + ".x"
    with pytest.raises(WeightsError, match=r"'diffusion_model.*' is no key of a LoRA"):
        merged(tmp_path, {key: torch.zeros(1)})


def test_a_configuration_beside_several_files_is_that_of_pefts_own(tmp_path: Path) -> None:
    """People keep many LoRAs in one folder; these others have their rank for an alpha."""
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    assert_same(merged(tmp_path, lora("peft", [Q])), with_pairs([Q], 2.0))
    written(lora("peft"), tmp_path / "adapter_model.safetensors")
    assert_same(merged(tmp_path, lora("peft", [Q])), with_pairs([Q], 1.0))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_that_an_editor_of_windows_saved(encoding: str, tmp_path: Path) -> None:
    assert_same(in_folder(lora("peft", [Q]), ADAPTER, tmp_path, encoding), with_pairs([Q], 2.0))


def test_a_configuration_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"adapter_config\.json: .* not a JSON object"):
        in_folder(lora("peft", [Q]), "\xff", tmp_path, "latin-1")


def test_the_scale_lies_inside_a_diffusers_file(tmp_path: Path) -> None:
    told = {f"transformer.{key}": value for key, value in ADAPTER.items()} | {"text_encoder.r": 5}
    path = tmp_path / "lora.safetensors"
    saved(STATE, tmp_path / "base.pt")
    card = make_card("base.pt", lora=[LoraConfig(repo="owner/name", path=path.name)])
    for metadata in (told, ADAPTER):
        written(lora("diffusers"), path, {"format": "pt", "lora_adapter_metadata": json.dumps(metadata)})
        assert_same(read_transformer(card, locate(card, str(tmp_path))), with_pairs(LINEARS, 2.0))
    written(lora("diffusers"), path, {"lora_adapter_metadata": '[["r", 3], [1, 2]]'})
    with pytest.raises(WeightsError, match=r"lora\.safetensors: .* not a JSON object"):
        read_transformer(card, locate(card, str(tmp_path)))


def test_a_folder_that_peft_saved(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    written(lora("peft"), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    saved(STATE, tmp_path / "base.pt")
    card = make_card("base.pt", lora=[LoraConfig(repo="owner/name", path="adapter")])
    assert_same(read_transformer(card, locate(card, str(tmp_path))), with_pairs(LINEARS, 2.0))


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"use_dora": True}, "use_dora: Input should be False"),
        ({"peft_type": "LOHA"}, "peft_type: Input should be 'LORA'"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights: Input should be True, False, 'gaussian'",
        ),
        ({"lora_alpha": "much"}, "lora_alpha: Input should be a valid number"),
        ({"lora_alpha": math.nan}, "lora_alpha: Input should be a finite number"),
        ({"r": 4}, "diffusion_model.blocks.0.self_attn.q.lora_A.weight has rank 3, not 4"),
        ({"rank_pattern": {"q": 9}}, "diffusion_model.blocks.0.self_attn.q.lora_A.weight has rank 3, not 9"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern\.\(.*: .*not a regular expression"),
        ({"rank_pattern": {"(?=q)q": 3}}, r"rank_pattern\..*: .*look-around or back-references"),
        ({"rank_pattern": {"q" * 1025: 3}}, r"rank_pattern\..*: .*at most 1024 characters"),
        ({"alpha_pattern": {str(n): 1 for n in range(4097)}}, "alpha_pattern: .* at most 4096 items"),
        ({"alpha_pattern": {"(a{1000}){1000}{1000}": 1}}, r"alpha_pattern\."),
        ("[1, 2]", "not a JSON object"),
        ("[[1, 2]]", "not a JSON object"),
        ('["ab"]', "not a JSON object"),
        ("null", "not a JSON object"),
        ("{", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
    ],
)
def test_a_configuration_that_cannot_be_merged(told: object, complaint: str, tmp_path: Path) -> None:
    whole = ADAPTER | told if isinstance(told, dict) else told
    with pytest.raises(WeightsError, match=complaint) as error:
        in_folder(lora("diffusion-pipe, ai-toolkit", [Q]), whole, tmp_path)
    assert "adapter_" in str(error.value)
    assert "\n" not in str(error.value)


ONES = torch.ones
A, B = f"diffusion_model.{Q}.lora_A.weight", f"diffusion_model.{Q}.lora_B.weight"
UP, DOWN = f"lora_unet_{flat(Q)}.lora_up.weight", f"lora_unet_{flat(Q)}.lora_down.weight"
BAD: dict[str, tuple[State, str]] = {
    "no B": ({A: ONES(3, 24)}, f"{A} has no other half"),
    "no A": ({B: ONES(24, 3)}, f"{B} has no other half"),
    "no halves": ({f"{Q}.alpha": ONES(())}, f"{Q}.alpha has no other half"),
    "14B on 1.3B": (
        {A: ONES(3, 5120), B: ONES(5120, 3)},
        f"{A} [3, 5120] and {B} [5120, 3] do not fit {Q}.weight [24, 24]",
    ),
    "two ranks": ({A: ONES(3, 24), B: ONES(24, 4)}, f"{A} [3, 24] and {B} [24, 4] do not fit"),
    "rank 0": ({A: ONES(0, 24), B: ONES(24, 0)}, f"{A} [0, 24] and {B} [24, 0] do not fit"),
    "numbers for matrices": ({A: ONES(()), B: ONES(())}, f"{A} [] and {B} [] do not fit"),
    "a pair for a norm": (
        {"blocks.0.norm3.lora_A.weight": ONES(3, 24), "blocks.0.norm3.lora_B.weight": ONES(24, 3)},
        "do not fit blocks.0.norm3.weight [24]",
    ),
    "too deep": (
        {"diffusion_model.blocks.39.ffn.0.lora_A.weight": ONES(3, 24)},
        "diffusion_model.blocks.39.ffn.0.lora_A.weight: this model has no such weight",
    ),
    "too deep, kohya": (
        {"lora_unet_blocks_39_ffn_0.lora_down.weight": ONES(3, 24)},
        "lora_unet_blocks_39_ffn_0.lora_down.weight: this model has no such weight",
    ),
    "image keys": (
        {"diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": ONES(3, 24)},
        "blocks.0.cross_attn.k_img.lora_down.weight: this model has no such weight",
    ),
    "image keys of diffusers": (
        {"transformer.blocks.0.attn2.add_k_proj.lora_A.weight": ONES(3, 24)},
        "blocks.0.attn2.add_k_proj.lora_A.weight: this model has no such weight",
    ),
    "the other transformer of Wan 2.2": (
        {"transformer_2.blocks.0.attn1.to_q.lora_A.weight": ONES(3, 24)},
        "transformer_2.blocks.0.attn1.to_q.lora_A.weight: this model has no such weight",
    ),
    "a text encoder's": (
        {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": ONES(3, 24)},
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight: this model has no such weight",
    ),
    "a difference of another shape": (
        {"diffusion_model.head.head.diff": ONES(7, 24)},
        "diffusion_model.head.head.diff [7, 24] does not fit head.head.weight [16, 24]",
    ),
    "a bias where there is none": (
        {"diffusion_model.blocks.0.self_attn.norm_q.diff_b": ONES(24)},
        "norm_q.diff_b: this model has no such bias",
    ),
    "twice": (
        {A: ONES(3, 24), B: ONES(24, 3), f"{Q}.lora_A.weight": ONES(3, 24)},
        f"{Q}.lora_A.weight and {A} are both for {Q}.weight",
    ),
    "twice under two spellings": (
        {A: ONES(3, 24), B: ONES(24, 3), DOWN: ONES(3, 24), UP: ONES(24, 3)},
        f"are both for {Q}.weight",
    ),
    "two adapters": (
        {f"{Q}.lora_A.one.weight": ONES(3, 24), f"{Q}.lora_A.two.weight": ONES(3, 24)},
        f"{Q}.lora_A.one.weight and {Q}.lora_A.two.weight are both for",
    ),
    "NaN": ({A: ONES(3, 24), B: torch.full((24, 3), math.nan)}, f"{B} holds NaN or infinity"),
    "infinite": ({A: torch.full((3, 24), math.inf), B: ONES(24, 3)}, f"{A} holds NaN or infinity"),
    "infinite alpha": ({f"{Q}.alpha": torch.tensor(math.inf)}, f"{Q}.alpha holds NaN or infinity"),
    "an alpha of many": ({f"{Q}.alpha": ONES(3)}, f"{Q}.alpha: not one number"),
    "whole numbers": ({A: ONES(3, 24, dtype=torch.int8)}, f"{A}: not dense floating point"),
    "NaN in eight bits": (
        {f"{Q}.diff": torch.full((24, 24), math.nan).to(torch.float8_e4m3fn)},
        f"{Q}.diff holds NaN or infinity",
    ),
    "DoRA": ({f"{Q}.dora_scale": ONES(24, 1), A: ONES(3, 24)}, f"{Q}.dora_scale: DoRA is not supported"),
    "DoRA of peft": (
        {f"{Q}.lora_magnitude_vector.weight": ONES(24)},
        f"{Q}.lora_magnitude_vector.weight: DoRA is not supported",
    ),
    "LoHa": ({f"lora_unet_{flat(Q)}.hada_w1_a": ONES(24, 3)}, "hada_w1_a: LoHa is not supported"),
    "LoKr": ({f"lycoris_{flat(Q)}.lokr_w1": ONES(4, 4)}, "lokr_w1: LoKr is not supported"),
    "OFT": ({f"{Q}.oft_blocks": ONES(4, 4, 4)}, "oft_blocks: OFT is not supported"),
    "a core": (
        {"patch_embedding.lora_mid.weight": ONES(3, 3, 1, 2, 2)},
        "patch_embedding.lora_mid.weight: a core between the halves of a LoRA is not supported",
    ),
    "biases": ({f"{Q}.lora_B.bias": ONES(24)}, f"{Q}.lora_B.bias: a LoRA with biases is not supported"),
    "scaled FP8": (
        {A: ONES(3, 24), f"{Q}.scale_weight": ONES(())},
        f"scaled FP8 ({Q}.scale_weight) is not supported; take the file in bf16 or fp16",
    ),
    "scaled FP8, newer": (
        {"scaled_fp8": ONES(0), A: ONES(3, 24)},
        "scaled FP8 (scaled_fp8) is not supported",
    ),
    "scaled FP8 in blocks": (
        {A: ONES(3, 24), f"{Q}.weight_scale_inv": ONES(1)},
        f"scaled FP8 ({Q}.weight_scale_inv) is not supported",
    ),
    "a key of several lines": (
        {f"{Q}\n\x1b[2J.lora_A.weight": ONES(3, 24)},
        f"'{Q}\\n\\x1b[2J.lora_A.weight' is no key of a LoRA",
    ),
    "a layer saved whole": (
        lora("peft", [Q]) | {"base_model.model.head.head.weight": ONES(16, 24)},
        "base_model.model.head.head.weight is no key of a LoRA",
    ),
    "one matrix for three": (
        {"blocks.0.attn1.to_qkv.lora_A.weight": ONES(3, 24)},
        "blocks.0.attn1.to_qkv.lora_A.weight: this model has no such weight",
    ),
    "a checkpoint": (dict(STATE), "is no key of a LoRA"),
    "something else": ({"lr": ONES(1)}, "lr is no key of a LoRA"),
    "nothing": ({}, "has no key of a LoRA"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_merged_is_refused_by_file_and_key(name: str, tmp_path: Path) -> None:
    tensors, complaint = BAD[name]
    with pytest.raises(WeightsError) as error:
        merged(tmp_path, tensors)
    assert str(error.value).startswith(f"{tmp_path}/0-lora.safetensors: ")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_the_cards_rank_must_be_the_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lora\.pt: base_model\..*lora_A\.weight has rank 3, not 256"):
        merged(tmp_path, lora("LongLive", [Q]), name="lora.pt", rank=256)


@pytest.mark.parametrize(("dtype", "strength"), [(torch.float32, 1e38), (torch.float16, 1e5)])
def test_a_sum_that_grows_too_large_is_the_loras(dtype: torch.dtype, strength: float, tmp_path: Path) -> None:
    """Not the checkpoint's, which holds what it did."""
    base = {name: tensor.to(dtype) for name, tensor in STATE.items()}
    with pytest.raises(WeightsError, match=rf"{Q}\.weight holds NaN or infinity with its LoRA files: lower"):
        merged(tmp_path, lora("Kijai", [Q]), base=base, strength=strength)
    bad = base | {f"{Q}.weight": torch.full_like(base[f"{Q}.weight"], math.nan)}
    assert merged(tmp_path, lora("Kijai", [Q]), base=bad)[f"{Q}.weight"].isnan().all(), "`load_state` tells"


def test_a_scaled_checkpoint_is_refused_too(tmp_path: Path) -> None:
    for key in ("scaled_fp8", f"model.diffusion_model.{Q}.scale_weight", f"{Q}.weight_scale"):
        with pytest.raises(WeightsError, match=r"base\.pt: scaled FP8 \(.*\) is not supported"):
            merged(tmp_path, lora("Kijai"), base=STATE | {key: ONES(1)})


def test_no_two_parameters_differ_in_dots_and_underscores_alone() -> None:
    for model in ("self-forcing-1.3b", "krea-14b", "demo"):
        with torch.device("meta"):
            names = type(meta_model())(find_card(model).transformer).state_dict()
        assert len({flat(name) for name in names}) == len(names)
