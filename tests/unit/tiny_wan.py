"""A tiny Wan transformer's state and card, for what reads checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade_core.config import (
    FileConfig,
    FilesConfig,
    LoraConfig,
    ModelCard,
    SamplingConfig,
    TransformerConfig,
    VideoConfig,
)
from cascade_core.model.model import CausalWanModel

State = dict[str, Tensor]

DIMS = TransformerConfig(
    dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=4, in_channels=4, freq_dim=16
)


def make_card(path: str = "weights.pt", key: str | None = None, lora: Sequence[LoraConfig] = ()) -> ModelCard:
    files = FilesConfig(
        transformer=FileConfig(repo="owner/name", path=path, key=key),
        vae=FileConfig(repo="base/wan", path="vae"),
        text_encoder=FileConfig(repo="base/wan", path="text_encoder"),
        tokenizer=FileConfig(repo="base/wan", path="tokenizer"),
        lora=tuple(lora),
    )
    return ModelCard(
        name="tiny",
        title="tiny",
        licence="Apache-2.0",
        commercial_use=True,
        source="this test",
        transformer=DIMS,
        sampling=SamplingConfig(steps=(1000, 500)),
        video=VideoConfig(width=32, height=32),
        files=files,
    )


def meta_model() -> CausalWanModel:
    with torch.device("meta"):
        return CausalWanModel(DIMS)


def random_state() -> State:
    """In the original layout, with no two parameters alike."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(meta.shape, generator=generator) * 0.3
        for name, meta in meta_model().state_dict().items()
    }


def assert_same(actual: State, expected: State) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path
