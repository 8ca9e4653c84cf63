"""The model cards say what the published models are."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from cascade_core.commands.listing import list_models
from cascade_core.config import FileConfig, find_card, load_card_file, load_cards
from cascade_core.errors import InvalidConfig, UnknownModel
from cascade_core.model.model import CausalWanModel
from cascade_core.model.sampler import pass_timesteps
from cascade_core.model.text import load_text_encoder
from cascade_core.planning.memory import num_parameters
from cascade_core.weights.locate import locate, missing_files
from tests.support import CPU

WAN_2_1 = [
    "causal-forcing-1.3b",
    "causal-forcing-frame-1step",
    "causal-forcing-frame-2step",
    "causal-forcing-long-1.3b",
    "causvid-1.3b",
    "krea-14b",
    "longlive-1.3b",
    "self-forcing-1.3b",
]
WAN_2_2 = ["longlive-2.0-5b", "longlive-2.0-5b-2step"]
PUBLISHED = WAN_2_1 + WAN_2_2
MIB = 2**20


def test_all_cards_load_under_their_file_names() -> None:
    cards = load_cards()
    assert {*PUBLISHED, "demo", "bench"} <= cards.keys()
    folder = Path("cascade_core/cards")
    assert {path.stem for path in folder.glob("*.toml")} == cards.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cards_name_files_source_and_licence(name: str) -> None:
    card = find_card(name)
    assert card.files is not None
    assert card.source == f"https://huggingface.co/{card.files.transformer.repo}"
    assert card.licence
    assert card.commercial_use or "CC-BY-NC" in card.licence or "check" in card.note
    parts: Mapping[str, FileConfig] = {
        part: getattr(card.files, part) for part in ("vae", "text_encoder", "tokenizer")
    }
    for part, config in parts.items():
        base = "Wan2.2-TI2V-5B" if name in WAN_2_2 else "Wan2.1-T2V-1.3B"
        assert (config.repo, config.path) == (f"Wan-AI/{base}-Diffusers", part)


@pytest.mark.parametrize("name", [*PUBLISHED, "demo", "bench"])
def test_example_prompts_are_there_and_different(name: str) -> None:
    prompts = find_card(name).example_prompts
    assert 0 < len(set(prompts)) == len(prompts)


def test_the_demo_model_knows_every_word_of_its_examples() -> None:
    card = find_card("demo")
    encoder = load_text_encoder(card, locate(card, None), CPU, torch.float32)
    for prompt in card.example_prompts:
        assert encoder.unknown_words(prompt) == ()
    assert encoder.unknown_words("a red dragon") == ("dragon",)


@pytest.mark.parametrize("prompts", [["x"] * 33, ["x" * 1025], [""], [" "]])
def test_example_prompts_are_bounded(prompts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    text = Path("cascade_core/cards/bench.toml").read_text()
    changed = f"example_prompts = {json.dumps(prompts)}"
    path.write_text(re.sub(r"example_prompts = \[.*?\n\]", changed, text, flags=re.DOTALL))
    with pytest.raises(InvalidConfig, match="example_prompts"):
        load_card_file(path)


@pytest.mark.parametrize("name", ["demo", "bench"])
def test_what_needs_no_download_is_all_there(name: str) -> None:
    assert missing_files(find_card(name)) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_architecture(name: str) -> None:
    card = find_card(name)
    assert card.transformer.head_dim == 128
    with torch.device("meta"):
        model = CausalWanModel(card.transformer)
    billions = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    expected = 14.3 if name.endswith("14b") else 5.0 if name in WAN_2_2 else 1.42
    assert billions == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", PUBLISHED)
def test_tokens_and_latents_at_the_default_size(name: str) -> None:
    card = find_card(name)
    height, width = card.video.height, card.video.width
    if name in WAN_2_2:
        assert card.tokens_per_block(height, width) == 8 * 880
        assert card.latent_shape(height, width) == (8, 48, 44, 80)
        assert (card.video.fps, [card.num_frames(block) for block in (0, 1)]) == (24, [29, 32])
    else:
        frames = 1 if "-frame-" in name else 3
        assert card.tokens_per_block(height, width) == frames * 1560
        assert card.latent_shape(height, width) == (frames, 16, 60, 104)


@pytest.mark.parametrize("name", WAN_2_2)
def test_the_vae_of_wan_2_2(name: str) -> None:
    """By its public size, 704.7 M parameters, and one mean and deviation for each of 48 channels."""
    values = find_card(name).vae
    with torch.device("meta"):
        vae = AutoencoderKLWan(**values)
    assert sum(parameter.numel() for parameter in vae.parameters()) == pytest.approx(704.7e6, rel=1e-3)
    assert len(values["latents_mean"]) == len(values["latents_std"]) == vae.config.z_dim == 48


def kv_bytes(name: str) -> float:
    """K/V of one latent frame in bf16; the keys of a sink lie there twice."""
    card = find_card(name)
    dims, tokens = card.transformer, card.tokens_per_block(card.video.height, card.video.width)
    text_caches = 2 * dims.num_layers * dims.dim * 2 * card.max_text_caches * dims.text_len
    in_flight = 2 * (card.max_text_caches - 1) * tokens * dims.dim * 2
    cached_frames = 1.5 * card.window.sink_frames + card.window.window_frames
    return (card.session_bytes(card.video.height, card.video.width) - text_caches - in_flight) / cached_frames


@pytest.mark.parametrize(
    ("name", "mib"),
    [("self-forcing-1.3b", 274), ("longlive-1.3b", 274), ("krea-14b", 1219), ("longlive-2.0-5b", 309)],
)
def test_session_memory_agrees_with_the_facts(name: str, mib: int) -> None:
    assert kv_bytes(name) / MIB == pytest.approx(mib, abs=1)


def test_windows() -> None:
    longlive, krea = find_card("longlive-1.3b").window, find_card("krea-14b").window
    assert (longlive.sink_frames + longlive.window_frames, longlive.max_blocks) == (12, None)
    assert (krea.window_blocks, krea.context_window_blocks, krea.max_blocks) == (2, 1, None)
    assert find_card("self-forcing-1.3b").window.window_frames == 21


@pytest.mark.parametrize(
    ("name", "timesteps"),
    [
        ("self-forcing-1.3b", [1000, 937.5, 833.33, 625, 0]),
        ("causvid-1.3b", [1000, 757, 522, 0]),
        ("longlive-2.0-5b", [999, 937, 833, 624, 0]),
        ("longlive-2.0-5b-2step", [999, 833, 0]),
        ("causal-forcing-frame-1step", [1000, 0]),
        ("causal-forcing-frame-2step", [1000, 833.33, 0]),
    ],
)
def test_timesteps(name: str, timesteps: list[float]) -> None:
    sampling = find_card(name).sampling
    assert pass_timesteps(sampling) == pytest.approx(timesteps, abs=0.3)
    if "-frame-" in name:
        assert pass_timesteps(sampling, 0) == pytest.approx([1000, 937.5, 833.33, 625, 0], abs=0.3)


@pytest.mark.parametrize("name", [*WAN_2_2, "causal-forcing-long-1.3b"])
def test_what_was_not_verified_is_listed(name: str) -> None:
    assert "Not verified against the published file" in find_card(name).note
    assert find_card(name).note in list_models(None, as_json=False)


def test_longlive_has_its_lora() -> None:
    files = find_card("longlive-1.3b").files
    assert files is not None
    (lora,) = files.lora
    assert (lora.key, lora.rank, lora.alpha) == ("generator_lora", 256, 256)


def edited_card(tmp_path: Path, old: str, new: str) -> Path:
    text = Path("cascade_core/cards/demo.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_a_card_of_ones_own(tmp_path: Path) -> None:
    assert find_card(str(edited_card(tmp_path, '"demo"', '"mine"'))).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[sampling]", "[sampling]\nstepz = 4", r"mine\.toml: sampling\.stepz"),
        ("[window]", "colour = 1\n[window]", r"mine\.toml: sampling\.colour"),
        ("name =", "nmae = 1\nname =", r"mine\.toml: nmae"),
        ("num_heads = 4", "num_heads = 5", r"mine\.toml: transformer: .*num_heads 5"),
        ("steps = [1000", "steps = [1000, 1000", r"mine\.toml: sampling: .*descend"),
        ("[window]", "[window", r"mine\.toml"),
    ],
)
def test_a_wrong_card_names_file_and_field(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(InvalidConfig, match=complaint):
        load_card_file(edited_card(tmp_path, old, new))


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(UnknownModel, match=r"self-forcing-1\.3b"):
        find_card("self-forcing")


@pytest.mark.parametrize("name", ["demo", "bench", "self-forcing-1.3b", "krea-14b"])
def test_parameters_are_counted_from_the_dimensions(name: str) -> None:
    dims = find_card(name).transformer
    with torch.device("meta"):
        model = CausalWanModel(dims)
    assert num_parameters(dims) == sum(parameter.numel() for parameter in model.parameters())


def test_the_guides_lora_fits_a_card(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", Path("docs/engine.md").read_text(), re.DOTALL)
    card = tmp_path / "mine.toml"
    card.write_text(Path("cascade_core/cards/self-forcing-1.3b.toml").read_text() + block)
    files = load_card_file(card).files
    assert files
    assert [(lora.repo, lora.path, lora.strength) for lora in files.lora] == [
        ("owner/style", "style.safetensors", 0.8)
    ]
