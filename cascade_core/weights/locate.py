"""Where a model's files are: local folder, local file, hub repository, or as the card says, the hub or an
installed package.

Imports no torch, so that listing the models stays quick.
"""

import re
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Final, Literal

from cascade_core.config import FileConfig, ListedLora, LoraConfig, ModelCard
from cascade_core.errors import WeightsError
from cascade_core.weights.shards import is_complete

Part = Literal["transformer", "vae", "text_encoder", "tokenizer"]
Wanted = Part | LoraConfig
"""A card can have several LoRA files."""

STANDARD_NAMES: Final[dict[Part, tuple[str, ...]]] = {
    "transformer": ("transformer",),
    "vae": ("vae", "Wan2.1_VAE.pth"),
    "text_encoder": ("text_encoder", "models_t5_umt5-xxl-enc-bf16.pth"),
    "tokenizer": ("tokenizer", "google/umt5-xxl"),
}
"""Names besides the card's own: the diffusers layout, then the original Wan layout."""

ADAPTER_MODEL: Final = "adapter_model"
"""What PEFT calls a LoRA's file."""
HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


Located = tuple[tuple[ListedLora, Path], ...]
"""Listed LoRAs, which stay beside the weights, and where their files are."""


@dataclass(frozen=True)
class ModelFiles:
    """Local paths of one model's parts; each is a file, or a folder in the diffusers layout."""

    transformer: Path
    lora: tuple[tuple[LoraConfig, Path], ...] = ()
    """Empty: the model has none, or the transformer found is taken as already merged."""
    vae: Path | None = None
    """None (as for the two below): the given place does not have it."""
    text_encoder: Path | None = None
    tokenizer: Path | None = None


def locate(card: ModelCard, weights: str | None) -> ModelFiles:
    """Find, and where allowed download, every part of a model.

    `weights` is a local folder (the card's paths, `<repository name>/<path>` side by side, or the
    diffusers layout), a local file (the transformer, with the LoRA beside it, named as in the card), a hub
    id `owner/name`, or None for the card's own repositories or installed package. HF_HUB_OFFLINE is
    honoured.

    Raises WeightsError where the transformer, a LoRA that it needs, or a part of the card's own place is
    not there.
    """
    transformer = locate_part(card, weights, "transformer")
    return ModelFiles(
        transformer=transformer,
        lora=_locate_lora(card, weights, transformer),
        vae=_locate_base(card, weights, "vae"),
        text_encoder=_locate_base(card, weights, "text_encoder"),
        tokenizer=_locate_base(card, weights, "tokenizer"),
    )


def locate_part(card: ModelCard, weights: str | None, part: Part) -> Path:
    """Find one part, for a process that needs no other; raises WeightsError where it is not there."""
    return _require(card, weights, part)


def missing_files(card: ModelCard, weights: str | None = None) -> list[str]:
    """Parts that are not on this machine, as `place: path`; uses no network.

    Empty for a card without weights where none are given: it runs on random ones.
    """
    if weights is None and not card.has_weights:
        return []
    loras = _loras(card) if _needs_lora(card, weights, _find_local(card, weights, "transformer")) else ()
    parts: list[Wanted] = ["transformer", *loras, "vae", "text_encoder", "tokenizer"]
    return [_describe(card, weights, part) for part in parts if not _find_local(card, weights, part)]


def _require(card: ModelCard, weights: str | None, part: Wanted) -> Path:
    path = _find(card, weights, part)
    if path is None:
        raise WeightsError(_not_found(card, weights, part))
    return path


def _find(card: ModelCard, weights: str | None, part: Wanted, local_only: bool = False) -> Path | None:
    config = _file_config(card, part)
    if weights is None and card.bundled:
        return _in_folder(_bundled_folder(card.name, card.bundled), _names(card, part), config)
    if weights is None:
        return in_hub(config.repo, (config.path,), local_only) if config else None
    place = Path(weights).expanduser()
    if place.is_file():
        return _beside(place, part)
    if place.is_dir():
        return _in_folder(place, _names(card, part), config)
    if HUB_ID.fullmatch(weights):
        return in_hub(weights, _names(card, part), local_only)
    raise WeightsError(f"weights {weights!r}: no such file or folder, and not a hub id `owner/name`")


def _find_local(card: ModelCard, weights: str | None, part: Wanted) -> Path | None:
    try:
        return _find(card, weights, part, local_only=True)
    except WeightsError:
        return None


def _bundled_folder(model: str, bundled: str) -> Path:
    """The folder that an installed package carries."""
    package, _, path = bundled.partition("/")
    try:
        folder = Path(str(resources(package) / path))
    except ModuleNotFoundError:
        raise WeightsError(
            f"model {model}: its weights come with the package {package}, not installed"
        ) from None
    if not folder.is_dir():
        raise WeightsError(f"model {model}: the package {package} has no folder {path} with its weights")
    return folder


def _in_folder(folder: Path, names: tuple[str, ...], config: FileConfig | None) -> Path | None:
    side_by_side = [folder / config.repo.rpartition("/")[2] / config.path] if config else []
    candidates = [*(folder / name for name in names), *side_by_side]
    return next((path for path in candidates if is_complete(path)), None)


def _beside(file: Path, part: Wanted) -> Path | None:
    if part == "transformer":
        return file
    if isinstance(part, LoraConfig) and (lora := file.parent / Path(part.path).name).is_file():
        return lora
    return None


def in_hub(repo: str, names: tuple[str, ...], local_only: bool) -> Path | None:
    """The first of the names that the repository, or offline the cache, has."""
    from huggingface_hub.errors import (
        EntryNotFoundError,  # 0.3 s, which ranks and local folders need not spend
    )

    for name in names:
        try:
            path = _fetch(repo, name, local_only)
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise WeightsError(f"hub repository {repo}: {type(error).__name__}: {reason}") from None
        if is_complete(path):
            return path
    return None


def _fetch(repo: str, name: str, local_only: bool) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    patterns = patterns_of(name)
    if not patterns:
        return Path(hf_hub_download(repo, name, local_files_only=local_only))
    return Path(snapshot_download(repo, allow_patterns=patterns, local_files_only=local_only)) / name


def patterns_of(path: str) -> list[str]:
    """What belongs to a path in a repository: a folder's files, the scale beside an adapter of PEFT; empty:
    nothing but that file."""
    if not Path(path).suffix:
        return [f"{path}/*"]
    return [path, adapter_config(Path(path)).as_posix()] if Path(path).stem == ADAPTER_MODEL else []


def adapter_config(lora: Path) -> Path:
    """Where PEFT puts what a LoRA file or folder does not tell itself."""
    return (lora if lora.is_dir() else lora.parent) / "adapter_config.json"


def _needs_lora(card: ModelCard, weights: str | None, transformer: Path | None) -> bool:
    """The LoRA belongs to the card's transformer; one of another name is taken as already merged."""
    if card.files is None or not card.files.lora:
        return False
    if weights is not None and Path(weights).expanduser().is_file():
        return False
    return transformer is None or transformer.as_posix().endswith(f"/{card.files.transformer.path}")


def _locate_base(card: ModelCard, weights: str | None, part: Part) -> Path | None:
    """A place that the user gives may lack a part; the card's own may not."""
    if weights is None and card.has_weights:
        return locate_part(card, weights, part)
    return _find(card, weights, part)


def _locate_lora(
    card: ModelCard, weights: str | None, transformer: Path
) -> tuple[tuple[LoraConfig, Path], ...]:
    if _needs_lora(card, weights, transformer):
        return tuple((lora, _require(card, weights, lora)) for lora in _loras(card))
    if not transformer.is_file():
        return ()
    return tuple((lora, path) for lora in _loras(card) if (path := _beside(transformer, lora)))


def _loras(card: ModelCard) -> tuple[LoraConfig, ...]:
    return card.files.lora if card.files else ()


def _file_config(card: ModelCard, part: Wanted) -> FileConfig | None:
    if isinstance(part, LoraConfig):
        return part
    config: FileConfig | None = getattr(card.files, part) if card.files else None
    return config


def _names(card: ModelCard, part: Wanted) -> tuple[str, ...]:
    config = _file_config(card, part)
    standard = () if isinstance(part, LoraConfig) else STANDARD_NAMES[part]
    return tuple(dict.fromkeys(((config.path,) if config else ()) + standard))


def _describe(card: ModelCard, weights: str | None, part: Wanted) -> str:
    config = _file_config(card, part)
    place = weights or card.bundled or (config.repo if config else "")
    return f"{place}: {_names(card, part)[0]}"


def _not_found(card: ModelCard, weights: str | None, part: Wanted) -> str:
    name = "lora" if isinstance(part, LoraConfig) else part
    if weights is None and not card.has_weights:
        return f"model {card.name}: no published {name}; give a folder as weights, or `random`"
    place = weights or card.bundled
    wanted = " or ".join(_names(card, part)) if place else _describe(card, weights, part)
    return (
        f"model {card.name}: no {name} in {place or 'the hub or its cache'}: looked for {wanted}; "
        "download it where there is a network, or give a folder that has it"
    )


def locate_listed(loras: tuple[ListedLora, ...]) -> Located:
    """Find, and where it is on the hub download, each of them. Raises WeightsError that names it."""
    return tuple((lora, _locate_one(lora)) for lora in loras)


def _locate_one(lora: ListedLora) -> Path:
    if lora.repo:
        found = in_hub(lora.repo, (lora.path,), local_only=False)
        if found is None:
            raise WeightsError(f"loras: {lora.name}: {lora.repo} has no {lora.path}")
        return found
    path = Path(lora.path).expanduser()
    if not is_complete(path):
        raise WeightsError(f"loras: {lora.name}: {path}: no such file or folder")
    return path
