"""Prompts to embeddings: cleaning, UMT5, and a stand-in for models with random weights."""

import html
import json
import re
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cascade_core.config import ModelCard
from cascade_core.errors import InvalidPrompt, WeightsError
from cascade_core.model.host_memory import download, upload
from cascade_core.model.tokens import Tokens, load_tokens
from cascade_core.model.umt5 import Umt5, Umt5Config
from cascade_core.weights.checkpoint import read_tensors
from cascade_core.weights.locate import ModelFiles
from cascade_core.weights.shards import reading
from cascade_core.weights.weights import load_state, read_text_encoder


class TextEncoder(Protocol):
    """Turns a prompt into what the transformer's cross-attention reads."""

    def encode(self, prompt: str) -> Tensor:
        """Embedding [num_tokens, text_dim] on the CPU, num_tokens <= text_len.

        The transformer pads it with zero rows to text_len. Raises InvalidPrompt when the prompt is empty
        or has more than text_len tokens. One call at a time.
        """
        ...

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """What of the prompt the tokenizer has no token for, as written, each once."""
        ...


def clean_prompt(text: str) -> str:
    """Repair broken Unicode, resolve HTML entities (twice), collapse white space (Wan's tokenizer)."""
    from ftfy import fix_text  # its tables take 0.3 s, which ranks that embed no prompt need not spend

    text = html.unescape(html.unescape(fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


class Umt5Encoder:
    """UMT5's encoder.

    The reference pads the tokens to text_len, masks the padding and zeroes its rows. UMT5's positions are
    relative and masked tokens weigh exactly nothing, so encoding the prompt's own tokens alone gives the
    same rows for a fraction of the work, which is the delay of a prompt switch.
    """

    def __init__(
        self,
        model: Umt5,
        tokens: Tokens,
        text_len: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`model` is moved to `device` and `dtype`."""
        self._model = model.to(device, dtype).eval().requires_grad_(False)
        self._tokens = tokens
        self._text_len, self._device = text_len, device
        # Beside the ticks: on their stream each would wait for the other.
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def encode(self, prompt: str) -> Tensor:
        ids = self._tokens.ids(_checked(prompt))
        _check_length(len(ids), self._text_len, "tokens")
        with torch.cuda.stream(self._stream):
            rows: Tensor = self._model(upload(torch.tensor(ids), self._device))
            if self._stream is None:
                return rows
            rows, done = download(rows)
        done.synchronize()
        return rows

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        return self._tokens.unknown(clean_prompt(prompt))


class RandomTextEncoder:
    """Embeddings drawn from a hash of the prompt: for benchmarks and tests on random weights only.

    The same prompt gives the same embedding everywhere; a word stands for a token.
    """

    def __init__(self, text_len: int, text_dim: int, dtype: torch.dtype) -> None:
        self._text_len, self._text_dim, self._dtype = text_len, text_dim, dtype

    def encode(self, prompt: str) -> Tensor:
        text = _checked(prompt)
        num_words = len(text.split())
        _check_length(num_words, self._text_len, "words")
        key = int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little")
        generator = np.random.Generator(np.random.Philox(key=key))
        rows = generator.standard_normal((num_words, self._text_dim), dtype=np.float32)
        return torch.from_numpy(rows).to(self._dtype)

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        return ()


def load_text_encoder(
    card: ModelCard, files: ModelFiles | None, device: torch.device, dtype: torch.dtype
) -> TextEncoder:
    """The card's text encoder; `files` None: the random one.

    Raises WeightsError when the files are absent, damaged, or do not fit the card.
    """
    clean_prompt("")  # imports now, not at the first prompt
    text_len, text_dim = card.transformer.text_len, card.transformer.text_dim
    if files is None:
        return RandomTextEncoder(text_len, text_dim, dtype)
    if files.text_encoder is None or files.tokenizer is None:
        raise WeightsError(f"model {card.name}: the text encoder or its tokenizer is absent")
    model = _load_model(files.text_encoder, device, dtype)
    if model.config.d_model != text_dim:
        raise WeightsError(
            f"{files.text_encoder}: embeddings of width {model.config.d_model}, {card.name} needs {text_dim}"
        )
    return Umt5Encoder(model, load_tokens(files.tokenizer), text_len, device, dtype)


def _load_model(path: Path, device: torch.device, dtype: torch.dtype) -> Umt5:
    state = read_tensors(path) if path.is_dir() else read_text_encoder(path)
    # One tensor with two names; files have either or both, and the encoder reads the second.
    embedding = state.pop("encoder.embed_tokens.weight", None)
    if embedding is not None:
        state["shared.weight"] = embedding
    model = _folder_model(path / "config.json") if path.is_dir() else _implied_model(state, path)
    load_state(model, state, path, device, dtype)
    return model


def _folder_model(config_file: Path) -> Umt5:
    with reading(config_file), torch.device("meta"):
        values = json.loads(config_file.read_text())
        if not isinstance(values, dict):
            raise TypeError(f"a {type(values).__name__}, not an object")
        return Umt5(Umt5Config.of(values))


def _implied_model(state: dict[str, Tensor], path: Path) -> Umt5:
    """Of the sizes that an original checkpoint implies (UMT5-XXL for Wan); it carries no configuration."""
    layer = "encoder.block.0.layer"
    with reading(path), torch.device("meta"):
        try:
            vocab_size, d_model = state["shared.weight"].shape
            num_buckets, num_heads = state[f"{layer}.0.SelfAttention.relative_attention_bias.weight"].shape
            inner = state[f"{layer}.0.SelfAttention.q.weight"].shape[0]
            d_ff = state[f"{layer}.1.DenseReluDense.wi_0.weight"].shape[0]
        except KeyError as error:
            raise WeightsError(f"not a UMT5 encoder: {error.args[0]} is missing") from None
        return Umt5(
            Umt5Config(
                vocab_size=vocab_size,
                d_model=d_model,
                d_kv=inner // num_heads,
                d_ff=d_ff,
                num_heads=num_heads,
                num_layers=sum(key.endswith("SelfAttention.q.weight") for key in state),
                relative_attention_num_buckets=num_buckets,
            )
        )


def _checked(prompt: str) -> str:
    text = clean_prompt(prompt)
    if not text:
        raise InvalidPrompt("the prompt is empty")
    return text


def _check_length(count: int, limit: int, unit: str) -> None:
    if count > limit:
        raise InvalidPrompt(f"the prompt has {count} {unit}; the model takes at most {limit}")
