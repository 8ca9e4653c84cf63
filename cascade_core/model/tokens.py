"""Prompts to tokens: by the file `tokenizer.json` alone where a tokenizer is no more than that, else by
transformers, which takes seconds to import."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from cascade_core.weights.shards import reading

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

PLAIN: Final = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers, former and present, that add nothing to the file."""


class Tokens(Protocol):
    """A prompt's tokens."""

    def ids(self, text: str) -> list[int]:
        """Those that end it included."""
        ...

    def unknown(self, text: str) -> tuple[str, ...]:
        """What of the text becomes the unknown token, as written, each once."""
        ...


class FileTokens:
    """Of a `tokenizer.json`."""

    def __init__(self, tokenizer: "Tokenizer", unknown: str | None) -> None:
        """`unknown`: the token for what there is no token for."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._unknown = None if unknown is None else tokenizer.token_to_id(unknown)

    def ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def unknown(self, text: str) -> tuple[str, ...]:
        encoding = self._tokenizer.encode(text)
        places = zip(encoding.ids, encoding.offsets, strict=True)
        words = (text[start:end].strip() for token, (start, end) in places if token == self._unknown)
        return tuple(dict.fromkeys(words))


class SlowTokens:
    """Of transformers' tokenizers in Python, which cannot say where their tokens come from."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text).input_ids)

    def unknown(self, text: str) -> tuple[str, ...]:
        return ()


def load_tokens(folder: Path) -> Tokens:
    """Raises WeightsError when a file is absent or damaged."""
    with reading(folder):
        settings = folder / "tokenizer_config.json"
        values = json.loads(settings.read_text()) if settings.is_file() else {}
        file = folder / "tokenizer.json"
        if values.get("tokenizer_class") in PLAIN and file.is_file():
            from tokenizers import Tokenizer  # random weights need none of it

            return FileTokens(Tokenizer.from_file(str(file)), _text(values.get("unk_token")))
        from transformers import AutoTokenizer

        # Absolute: transformers takes a relative path that is not there for a hub id.
        found = AutoTokenizer.from_pretrained(
            folder.absolute(), local_files_only=True, trust_remote_code=False
        )
        return FileTokens(found.backend_tokenizer, found.unk_token) if found.is_fast else SlowTokens(found)


def _text(token: object) -> str | None:
    """transformers writes a token as text, or as an object with its rules."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
