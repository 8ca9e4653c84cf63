"""A whole tiny checkpoint with random weights in the diffusers layout, and a package that carries it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from cascade_core.config import ModelCard
from tests.support import tiny_model

WORDS = ("a", "red", "blue", "circle", "square", "moves", "left")
VAE = {"base_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}


def word_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """A closed vocabulary, one token a word, as the demo model has."""
    tokens = {token: number for number, token in enumerate(("<pad>", "</s>", "<unk>", *words))}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def write_checkpoint(folder: Path, card: ModelCard) -> None:
    """transformer/, vae/, text_encoder/ and tokenizer/ of a tiny card of 16 latent channels."""
    (folder / "transformer").mkdir(parents=True)
    save_file(tiny_model(card).state_dict(), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    torch.manual_seed(0)
    AutoencoderKLWan(**VAE).save_pretrained(folder / "vae")
    tokenizer = word_tokenizer()
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=card.transformer.text_dim,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
    )
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


def write_package(folder: Path, name: str) -> Path:
    """An importable package below `folder`; the folder in it that is to carry the weights."""
    (folder / name / "checkpoint").mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    return folder / name / "checkpoint"
