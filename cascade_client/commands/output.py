"""Where a command writes its video, and what it never does to a file that is there."""

import sys
from itertools import chain, count
from pathlib import Path

from cascade_client.console import CommandFailed, CommandParser, Options
from cascade_client.save import STANDARD_OUTPUT, Saved, check_path, is_piped

ENDINGS = ("", ".mp4", ".m4v")
"""Of names that an MP4 may have."""


def add_out(parser: CommandParser, default: str) -> None:
    stem, ending = Path(default).stem, Path(default).suffix
    parser.add_argument(
        "--out", type=Path,
        help=f"MP4 file, or - for standard output (default: {default}, or {stem}-2{ending} and so on)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a file of that name")


def choose_out(options: Options, default: str) -> Path:
    """The file that was named, else a new one. Raises CommandFailed, CannotSave."""
    if options.out is None:
        return Path(default) if options.overwrite else new_file(Path(default))
    path: Path = options.out
    if path == STANDARD_OUTPUT:
        check_standard_output(options)
    elif not is_piped(path):
        if path.suffix.lower() not in ENDINGS:
            raise CommandFailed(f"--out {path}: the video is an MP4; choose a name that ends in .mp4")
        if path.exists() and not options.overwrite:
            raise CommandFailed(f"--out {path}: it exists; choose another name, or add --overwrite")
    check_path(path)
    return path


def new_file(wanted: Path) -> Path:
    """Of this name, or with the first number that nobody has."""
    numbered = (wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}") for number in count(2))
    return next(each for each in chain([wanted], numbered) if not each.exists())


def check_standard_output(options: Options) -> None:
    """Raises CommandFailed where nobody could make use of it."""
    if sys.stdout.isatty():
        raise CommandFailed("--out -: standard output is a terminal; lead it into a program or a file")
    if getattr(options, "json", False):
        raise CommandFailed("--out - and --json would both write to standard output")


def saved_sentence(saved: Saved) -> str:
    where = "standard output" if saved.path == STANDARD_OUTPUT else str(saved.path)
    return f"saved {saved.duration_s:.1f} s ({saved.num_frames} pictures) to {where}"
