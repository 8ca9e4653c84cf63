"""A model's files are found wherever a user may have put them, and what is missing is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cascade_core.config import (
    FileConfig,
    FilesConfig,
    LoraConfig,
    ModelCard,
    SamplingConfig,
    TransformerConfig,
    VideoConfig,
)
from cascade_core.errors import WeightsError
from cascade_core.weights.locate import ModelFiles, locate, locate_part, missing_files
from tests.checkpoint import write_package

LORA = LoraConfig(repo="owner/name", path="models/lora.pt", key="generator_lora")
FULL = ModelCard(
    name="tiny",
    title="tiny",
    licence="Apache-2.0",
    commercial_use=True,
    source="this test",
    transformer=TransformerConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=2),
    sampling=SamplingConfig(steps=(1000, 500)),
    video=VideoConfig(width=32, height=32),
    files=FilesConfig(
        transformer=FileConfig(repo="owner/name", path="models/base.pt"),
        lora=(LORA,),
        vae=FileConfig(repo="base/wan", path="vae"),
        text_encoder=FileConfig(repo="base/wan", path="text_encoder"),
        tokenizer=FileConfig(repo="base/wan", path="tokenizer"),
    ),
)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def touch_base(folder: Path) -> None:
    touch(folder / "vae/config.json", folder / "text_encoder/config.json", folder / "tokenizer/spiece.model")


def test_locate_in_a_mirror_of_the_repositories(tmp_path: Path) -> None:
    touch(tmp_path / "models/base.pt", tmp_path / "models/lora.pt")
    touch_base(tmp_path)
    files = locate(FULL, str(tmp_path))
    assert files == ModelFiles(
        tmp_path / "models/base.pt",
        ((LORA, tmp_path / "models/lora.pt"),),
        tmp_path / "vae",
        tmp_path / "text_encoder",
        tmp_path / "tokenizer",
    )
    assert missing_files(FULL, str(tmp_path)) == []


def test_locate_in_repositories_side_by_side(tmp_path: Path) -> None:
    touch(tmp_path / "name/models/base.pt", tmp_path / "name/models/lora.pt")
    touch_base(tmp_path / "wan")
    files = locate(FULL, str(tmp_path))
    assert files.transformer == tmp_path / "name/models/base.pt"
    assert files.lora == ((LORA, tmp_path / "name/models/lora.pt"),)
    assert files.vae == tmp_path / "wan/vae"


def test_locate_in_a_diffusers_folder_takes_the_lora_as_merged(tmp_path: Path) -> None:
    touch(tmp_path / "transformer/diffusion_pytorch_model.safetensors", tmp_path / "models/lora.pt")
    touch_base(tmp_path)
    files = locate(FULL, str(tmp_path))
    assert (files.transformer, files.lora) == (tmp_path / "transformer", ())
    assert missing_files(FULL, str(tmp_path)) == []
    assert locate(replace(FULL, files=None), str(tmp_path)) == files


def test_locate_in_an_original_wan_folder(tmp_path: Path) -> None:
    names = ("models/base.pt", "models/lora.pt", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth")
    touch(*(tmp_path / name for name in names), tmp_path / "google/umt5-xxl/spiece.model")
    files = locate(FULL, str(tmp_path))
    assert files.vae == tmp_path / "Wan2.1_VAE.pth"
    assert files.text_encoder == tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
    assert files.tokenizer == tmp_path / "google/umt5-xxl"


def test_locate_a_single_file(tmp_path: Path) -> None:
    touch(tmp_path / "mine.pt")
    assert locate(FULL, str(tmp_path / "mine.pt")) == ModelFiles(tmp_path / "mine.pt")
    touch(tmp_path / "lora.pt")
    assert locate(FULL, str(tmp_path / "mine.pt")).lora == ((LORA, tmp_path / "lora.pt"),)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"no transformer in .*: looked for models/base\.pt or transformer"
    ):
        locate(FULL, str(tmp_path))
    touch(tmp_path / "models/base.pt")
    with pytest.raises(WeightsError, match=r"no lora in .*: looked for models/lora\.pt"):
        locate(FULL, str(tmp_path))
    assert [entry.removeprefix(f"{tmp_path}: ") for entry in missing_files(FULL, str(tmp_path))] == [
        "models/lora.pt",
        "vae",
        "text_encoder",
        "tokenizer",
    ]
    with pytest.raises(WeightsError, match="no such file or folder, and not a hub id"):
        locate(FULL, "nowhere")
    with pytest.raises(WeightsError, match="no published transformer; give a folder"):
        locate(replace(FULL, files=None), None)
    assert missing_files(replace(FULL, files=None)) == []


def test_locate_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    card = replace(FULL, files=None, bundled="carries_weights/checkpoint")
    parts = ["transformer", "vae", "text_encoder", "tokenizer"]
    assert missing_files(card) == [f"carries_weights/checkpoint: {part}" for part in parts]
    with pytest.raises(WeightsError, match="come with the package carries_weights, not installed"):
        locate(card, None)
    folder = write_package(tmp_path, "carries_weights")
    touch(folder / "transformer/diffusion_pytorch_model.safetensors")
    assert missing_files(card) == [f"carries_weights/checkpoint: {part}" for part in parts[1:]]
    with pytest.raises(WeightsError, match=r"no vae in carries_weights/checkpoint: looked for vae or Wan2"):
        locate(card, None)
    touch_base(folder)
    assert missing_files(card) == []
    assert locate(card, None) == locate(card, str(folder))
    assert locate_part(card, None, "tokenizer") == folder / "tokenizer"
    with pytest.raises(WeightsError, match="the package carries_weights has no folder elsewhere"):
        locate(replace(card, bundled="carries_weights/elsewhere"), None)


def test_given_weights_go_before_those_of_a_package(tmp_path: Path) -> None:
    touch(tmp_path / "transformer/diffusion_pytorch_model.safetensors")
    card = replace(FULL, files=None, bundled="no_such_package/checkpoint")
    assert locate(card, str(tmp_path)) == ModelFiles(tmp_path / "transformer")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def cached_snapshot(cache: Path, repo: str) -> Path:
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    return folder / "snapshots" / ("0" * 40)


def test_locate_in_the_hub_cache(hub_cache: Path) -> None:
    assert missing_files(FULL) == [
        "owner/name: models/base.pt",
        "owner/name: models/lora.pt",
        "base/wan: vae",
        "base/wan: text_encoder",
        "base/wan: tokenizer",
    ]
    with pytest.raises(
        WeightsError, match=r"no transformer in the hub.*owner/name: models/base\.pt; download"
    ):
        locate(FULL, None)
    snapshot, base = cached_snapshot(hub_cache, "owner/name"), cached_snapshot(hub_cache, "base/wan")
    touch(snapshot / "models/base.pt", snapshot / "models/lora.pt")
    assert missing_files(FULL) == ["base/wan: vae", "base/wan: text_encoder", "base/wan: tokenizer"]
    with pytest.raises(WeightsError, match="no vae in the hub"):
        locate(FULL, None)
    touch_base(base)
    files = locate(FULL, None)
    assert files.transformer == snapshot / "models/base.pt"
    assert files.lora == ((LORA, snapshot / "models/lora.pt"),)
    assert (files.vae, files.tokenizer) == (base / "vae", base / "tokenizer")
    assert missing_files(FULL) == []


def test_the_scale_beside_an_adapter_is_fetched_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def fetch(_repo: str, *, allow_patterns: list[str], **_options: Any) -> str:
        asked.append(allow_patterns)
        return "/nowhere"

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert FULL.files
    adapter = LoraConfig(repo="some/style", path="v2/adapter_model.safetensors")
    card = replace(FULL, files=replace(FULL.files, lora=(adapter,)))
    assert "some/style: v2/adapter_model.safetensors" in missing_files(card)
    assert ["v2/adapter_model.safetensors", "v2/adapter_config.json"] in asked


def test_several_lora_files_are_each_looked_for(tmp_path: Path) -> None:
    assert FULL.files
    style = LoraConfig(repo="some/style", path="style.safetensors", strength=0.5)
    card = replace(FULL, files=replace(FULL.files, lora=(LORA, style)))
    touch(tmp_path / "models/base.pt", tmp_path / "models/lora.pt")
    touch_base(tmp_path)
    assert missing_files(card, str(tmp_path)) == [f"{tmp_path}: style.safetensors"]
    with pytest.raises(WeightsError, match=r"no lora in .*: looked for style\.safetensors"):
        locate(card, str(tmp_path))
    touch(tmp_path / "style/style.safetensors")
    found = ((LORA, tmp_path / "models/lora.pt"), (style, tmp_path / "style/style.safetensors"))
    assert locate(card, str(tmp_path)).lora == found
    touch(tmp_path / "models/style.safetensors")
    beside = locate(card, str(tmp_path / "models/base.pt")).lora
    assert beside == ((LORA, tmp_path / "models/lora.pt"), (style, tmp_path / "models/style.safetensors"))


def test_an_unfinished_download_counts_as_missing(hub_cache: Path) -> None:
    base = cached_snapshot(hub_cache, "base/wan")
    touch_base(base)
    index = base / "text_encoder/model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    touch(base / "text_encoder/model-1.safetensors")
    assert "base/wan: text_encoder" in missing_files(FULL)
    with pytest.raises(WeightsError, match=r"the index names model-2\.safetensors, not there"):
        locate_part(FULL, None, "text_encoder")


def test_locate_by_hub_id(hub_cache: Path) -> None:
    snapshot = cached_snapshot(hub_cache, "some/one")
    touch(snapshot / "transformer/diffusion_pytorch_model.safetensors")
    assert locate(FULL, "some/one") == ModelFiles(snapshot / "transformer")
    touch(snapshot / "models/base.pt", snapshot / "models/lora.pt")
    touch_base(snapshot)
    assert locate(FULL, "some/one").lora == ((LORA, snapshot / "models/lora.pt"),)
    assert missing_files(FULL, "some/one") == []
    with pytest.raises(WeightsError, match="no transformer in no/body"):
        locate(FULL, "no/body")


def test_a_hub_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> str:
        raise PermissionError("401: log in first\nmore")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(WeightsError, match=r"hub repository owner/name: PermissionError: 401: log in first$"):
        locate(FULL, None)
