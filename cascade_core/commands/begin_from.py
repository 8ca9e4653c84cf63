"""`cascade-engine generate --image` and `--video`: what is typed of what a video goes on from."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cascade_core.errors import InvalidConfig
from cascade_core.media.start.start_file import Fit, Kind


@dataclass(frozen=True)
class BeginningOptions:
    """What to begin from."""

    kind: Kind
    path: Path
    fit: Fit = "crop"
    last_s: float | None = None
    """Of a clip only its last seconds."""
    is_shown: bool = False
    """Whether the clip is part of the video, which then counts from its first picture."""


def add_beginning(parser: argparse.ArgumentParser) -> None:
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--image", type=Path, metavar="FILE", help="go on from this picture: PNG, JPEG or WebP"
    )
    start.add_argument("--video", type=Path, metavar="FILE", help="go on from this clip: MP4")
    parser.add_argument(
        "--last", type=parse_last, metavar="SECONDS",
        help="only from so much of the clip's end, such as 2s (default: what the model looks back on)",
    )  # fmt: skip
    parser.add_argument(
        "--fit", choices=get_args(Fit), metavar="FIT",
        help="what becomes of another shape: crop (default) or pad, with black bars",
    )  # fmt: skip
    parser.add_argument("--include-start", action="store_true", help="the clip is part of the video")


def parse_last(text: str) -> float:
    found = re.fullmatch(r"\s*(\d*\.?\d+)s?\s*", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 2s")
    return float(found[1])


def beginning_of(arguments: argparse.Namespace) -> BeginningOptions | None:
    """Raises InvalidConfig."""
    path = arguments.image or arguments.video
    if arguments.last and not arguments.video:
        raise InvalidConfig("--last: needs --video")
    if path is None:
        if arguments.fit or arguments.include_start:
            flag = "--fit" if arguments.fit else "--include-start"
            raise InvalidConfig(f"{flag}: needs --image or --video")
        return None
    kind: Kind = "image" if arguments.image else "video"
    return BeginningOptions(kind, path, arguments.fit or "crop", arguments.last, arguments.include_start)
