"""What is typed on the command line, as values. Each raises argparse.ArgumentTypeError with a sentence."""

import argparse
import math
import re
from dataclasses import dataclass

from cascade_client.local.ports import HttpPort

MAX_SCALE = 4.0
MAX_LENGTH_S = 60.0
"""Of a clip's end, as the contract says."""


@dataclass(frozen=True)
class Change:
    """A prompt that takes over at a block, or as near as can be to a moment of the video."""

    prompt: str
    block: int | None = None
    seconds: float | None = None


def parse_change(text: str) -> Change:
    when, equals, prompt = text.partition("=")
    when = when.strip()
    if equals and prompt.strip() and when.isdigit():
        return Change(prompt, block=int(when))
    if equals and prompt.strip() and when.endswith("s"):
        return Change(prompt, seconds=parse_seconds(when.removesuffix("s")))
    raise argparse.ArgumentTypeError(f'{text!r} is not WHEN=PROMPT, such as 8="a blue square" or 5s="..."')


def parse_prompt(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: say what to show")
    return text


def parse_lora(text: str) -> tuple[str, float]:
    """Name and scale."""
    name, equals, scale = text.partition("=")
    try:
        value = float(scale) if equals else 1.0
    except ValueError:
        value = math.nan
    if not (re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) and abs(value) <= MAX_SCALE):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME or NAME=SCALE with a scale from -4 to 4, such as ink=0.8"
        )
    return name, value


def parse_session(text: str) -> str:
    if not re.fullmatch(r"(sessions/)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no session's name; `cascade sessions` lists them")
    return text


def parse_model(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9._-]{0,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no model's name, such as demo")
    return text


def parse_seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 2^63 - 1")
    return int(text)


def parse_block(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a block, 0 or more")
    return int(text)


def parse_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def parse_length(text: str) -> float:
    value = parse_seconds(text.removesuffix("s"))
    if value > MAX_LENGTH_S:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MAX_LENGTH_S:g} s")
    return value


def parse_count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def parse_size(text: str) -> tuple[int, int]:
    width, x, height = text.lower().partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 832x480")
    return int(width), int(height)


def parse_port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def parse_http_port(text: str) -> HttpPort:
    try:
        return HttpPort(None if text == "off" else parse_port(text), "--http-port")
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535, or `off`") from None


def add_loras(parser: argparse.ArgumentParser, more: str = "at most three") -> None:
    parser.add_argument(
        "--lora", type=parse_lora, action="append", default=[], metavar="NAME=SCALE",
        help=f"a LoRA of the model, such as ink=0.8; may be repeated ({more}); `cascade models` lists them",
    )  # fmt: skip
