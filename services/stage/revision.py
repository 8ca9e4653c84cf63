"""Which weights a stage runs, as a digest: a session continues faithfully only on the same ones.

Weights in FP8 are others than those they were made from.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from cascade_core.config import RANDOM, EngineConfig, ListedLora, ModelCard, uses_random_weights
from cascade_core.errors import WeightsError
from cascade_core.weights.locate import ModelFiles, adapter_config, locate, locate_listed


def find_revision(config: EngineConfig, card: ModelCard) -> str:
    """`random`, or `sha256:` and the digest; with `+fp8` where they are quantized. Reads all of the weights:
    seconds to minutes, off the event loop. Raises WeightsError."""
    found = RANDOM if uses_random_weights(config, card) else digest(locate(card, config.weights))
    return found if config.quantize == "none" else f"{found}+{config.quantize}"


def find_digests(loras: tuple[ListedLora, ...]) -> dict[str, str]:
    """Of each listed LoRA by name, as `find_revision`."""
    return {
        lora.name: _digest([(f"lora {lora.alpha} {lora.key}", path), *_adapter(path)])
        for lora, path in locate_listed(loras)
    }


def digest(files: ModelFiles) -> str:
    """Over the parts' names, file names and contents; where they lie does not matter."""
    return _digest(parts_of(files))


def _digest(parts: Iterable[tuple[str, Path | None]]) -> str:
    whole = hashlib.sha256()
    try:
        for part, place in parts:
            for path in files_of(place):
                assert place
                name = path.relative_to(place).as_posix() if place.is_dir() else ""
                whole.update(f"{part}\0{name}\0".encode())
                with path.open("rb") as content:
                    whole.update(hashlib.file_digest(content, "sha256").digest())
    except OSError as error:
        raise WeightsError(f"weights: cannot be read: {error}") from None
    return f"sha256:{whole.hexdigest()}"


def parts_of(files: ModelFiles) -> Iterator[tuple[str, Path | None]]:
    """What latents depend on, by name."""
    yield "transformer", files.transformer
    yield "text_encoder", files.text_encoder
    yield "tokenizer", files.tokenizer
    for lora, path in files.lora:
        yield f"lora {lora.alpha} {lora.strength}", path
        yield from _adapter(path)


def _adapter(lora: Path) -> Iterator[tuple[str, Path]]:
    """What PEFT put beside a file; in a folder it is one of its files."""
    if lora.is_file() and adapter_config(lora).is_file():
        yield "adapter", adapter_config(lora)


def files_of(place: Path | None) -> list[Path]:
    """The files of a part, which may be one file or a folder, in a fixed order. Raises WeightsError where
    there are none."""
    if place is None:
        return []
    if place.is_file():
        return [place]
    found = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]
    if not found:
        raise WeightsError(f"weights: {place} has no files")
    return sorted(found, key=lambda path: path.relative_to(place).as_posix())
