"""What is typed on the command line, as values. Each raises argparse.ArgumentTypeError with a sentence."""

import argparse
import json
import math
import re
from dataclasses import dataclass

from cascade_client.local.ports import HttpPort
from cascade_client.prompts import Prompt

MIX_EXAMPLE = """'{"a red circle": 0.7, "a blue square": 0.3}'"""

MAX_SCALE = 4.0
MAX_LENGTH_S = 60.0
"""Of a clip's end, as the contract says."""


@dataclass(frozen=True)
class Change:
    """A prompt that takes over at a block, or as near as can be to a moment of the video."""

    prompt: Prompt
    block: int | None = None
    seconds: float | None = None


def parse_change(text: str) -> Change:
    when, equals, prompt = text.partition("=")
    when = when.strip()
    if equals and prompt.strip() and when.isdigit():
        return Change(parse_prompt(prompt), block=int(when))
    if equals and prompt.strip() and when.endswith("s"):
        return Change(parse_prompt(prompt), seconds=parse_seconds(when.removesuffix("s")))
    raise argparse.ArgumentTypeError(f'{text!r} is not WHEN=PROMPT, such as 8="a blue square" or 5s="..."')


def parse_prompt(text: str) -> Prompt:
    """A text, or a mix as a JSON object of weights by text."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: say what to show")
    if not text.lstrip().startswith("{"):
        return text
    try:
        weights = json.loads(text)
    except ValueError:
        return text
    if not weights or not all(type(weight) in (int, float) and weight > 0 for weight in weights.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is no mix of prompts, such as {MIX_EXAMPLE}")
    return {part: float(weight) for part, weight in weights.items()}


@dataclass(frozen=True)
class Over:
    """How long a prompt takes over, in one of the two."""

    num_blocks: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return str(self.num_blocks) if self.num_blocks else f"{self.seconds:g}s"


def add_over(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--over", type=parse_over, metavar="LENGTH",
        help="have the new prompt take over gradually: blocks (`4`) or seconds (`3s`)",
    )  # fmt: skip
    parser.add_argument(
        "--interpolation", choices=("linear", "slerp"), metavar="HOW",
        help="with --over: linear (the default), or slerp, along the arc between embeddings",
    )  # fmt: skip


def parse_over(text: str) -> Over:
    if text.strip().endswith("s"):
        return Over(seconds=parse_seconds(text.strip().removesuffix("s")))
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither blocks, such as 4, nor seconds, such as 3s")
    return Over(num_blocks=int(text))


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


def add_loras(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "--lora", type=parse_lora, action="append", default=[], metavar="NAME=SCALE",
        help=f"a LoRA of the model, such as ink=0.8, up to three times{more}; `cascade models` lists them",
    )  # fmt: skip
