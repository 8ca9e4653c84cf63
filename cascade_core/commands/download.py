"""Fetch a model's files from the hub into a folder, which `weights` can then name. What is there stays;
what is half there is completed.

Imports no torch.
"""

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download

from cascade_core.config import FileConfig, ModelCard
from cascade_core.errors import WeightsError
from cascade_core.weights.locate import missing_files, patterns_of
from cascade_core.weights.shards import is_complete

MARKS = ".complete"
"""Folder beside a repository's files. A mark in it: a part of several files has arrived whole."""


def download(card: ModelCard, folder: Path, tell: Callable[[str], None]) -> list[Path]:
    """Put every file of the card into `folder/<repository name>/<path>`, where `locate` finds it. Uses no
    network where all of them are there. `tell` hears of each that is fetched. Returns those.

    Raises WeightsError where the card names no files, the hub refuses, or the connection or the disk fails;
    called again, it goes on from there.
    """
    if card.files is None:
        raise WeightsError(f"model {card.name}: has no files in the hub")
    fetched = []
    for part in parts(card):
        if not is_there(part, folder):
            tell(f"fetching {part.repo}: {part.path}")
            fetched.append(fetch(part, folder))
    if missing := missing_files(card, str(folder)):
        raise WeightsError(f"model {card.name}: still not there: {'; '.join(missing)}")
    return fetched


def parts(card: ModelCard) -> list[FileConfig]:
    """Everything that the card names."""
    files = card.files
    assert files is not None
    return [files.transformer, *files.lora, files.vae, files.text_encoder, files.tokenizer]


def home(part: FileConfig, folder: Path) -> Path:
    """Where the files of its repository are."""
    return folder / part.repo.rpartition("/")[2]


def mark(part: FileConfig, folder: Path) -> Path:
    return home(part, folder) / MARKS / part.path.replace("/", "-")


def is_there(part: FileConfig, folder: Path) -> bool:
    """A file takes its name when it is whole; of several, some may be missing: the mark says that none is."""
    path = home(part, folder) / part.path
    if not patterns_of(part.path):
        return path.is_file()
    try:
        return mark(part, folder).is_file() and is_complete(path)
    except WeightsError:
        return False


def fetch(part: FileConfig, folder: Path) -> Path:
    """Download a part; where it is then. Raises WeightsError."""
    root = home(part, folder)
    try:
        if patterns := patterns_of(part.path):
            snapshot_download(part.repo, allow_patterns=patterns, local_dir=root)
            mark(part, folder).parent.mkdir(parents=True, exist_ok=True)
            mark(part, folder).touch()
        else:
            hf_hub_download(part.repo, part.path, local_dir=root)
    except Exception as error:  # the hub's client passes on whatever its transport raises
        reason = " ".join(str(error).split())
        raise WeightsError(f"hub repository {part.repo}: {type(error).__name__}: {reason}") from None
    return root / part.path
