"""The prompts of `cascade-engine generate`: the first, later ones, and how these take over. No torch."""

import argparse
import json
import re
from collections.abc import Sequence
from typing import get_args

from cascade_core.config import ModelCard, SwitchMode
from cascade_core.errors import InvalidConfig
from cascade_core.prompts import (
    MAX_TRANSITION_BLOCKS,
    Interpolation,
    Prompt,
    Transition,
    WeightedPrompt,
)

MIX_EXAMPLE = """'{"a red circle": 0.7, "a blue square": 0.3}'"""


def add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt", required=True, type=parse_prompt, help=f"what to show, or several at once: {MIX_EXAMPLE}"
    )
    for flag, text in (
        ("--at", "change the prompt when this block starts; may be repeated"),
        ("--switch", argparse.SUPPRESS),  # the former name
    ):
        parser.add_argument(
            flag, dest="switch", type=parse_switch, action="append", default=[],
            metavar="BLOCK=PROMPT", help=text,
        )  # fmt: skip
    parser.add_argument(
        "--switch-mode", choices=get_args(SwitchMode), default="immediate", metavar="MODE",
        help="how later prompts take over: immediate (default), boundary, recache or cut (a new shot)",
    )  # fmt: skip
    parser.add_argument(
        "--over", type=parse_over, metavar="LENGTH",
        help="have later prompts take over gradually: blocks (`4`) or seconds (`3s`)",
    )  # fmt: skip
    parser.add_argument(
        "--interpolation", choices=get_args(Interpolation), metavar="HOW",
        help="with --over: linear (default), or slerp, along the arc between embeddings",
    )  # fmt: skip


def parse_switch(text: str) -> tuple[int, Prompt]:
    """`8=a blue square`, as `cascade generate --at` has it; `8:` is the former way."""
    found = re.fullmatch(r"\s*(\d+)\s*[=:](.*\S.*)", text, re.DOTALL)
    if not found:
        raise argparse.ArgumentTypeError(f'{text!r} is not BLOCK=PROMPT, such as 8="a blue square"')
    return int(found[1]), parse_prompt(found[2])


def parse_prompt(text: str) -> Prompt:
    """A text, or a mix as a JSON object of weights by text."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        weights = json.loads(text)
    except ValueError:
        return text
    if not all(type(weight) in (int, float) for weight in weights.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is no mix of prompts, such as {MIX_EXAMPLE}")
    return tuple(WeightedPrompt(part, float(weight)) for part, weight in weights.items())


def parse_over(text: str) -> tuple[float, str]:
    """`4` blocks or `3s`: the number and its unit, empty for blocks."""
    found = re.fullmatch(r"\s*(\d+|\d*\.?\d+(?=s))(s?)\s*", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is neither blocks, such as 4, nor seconds, such as 3s")
    return float(found[1]), found[2]


def transition(arguments: argparse.Namespace, card: ModelCard) -> Transition | None:
    """Raises InvalidConfig."""
    if not arguments.over:
        if arguments.interpolation:
            raise InvalidConfig("--interpolation: needs --over")
        return None
    if not arguments.switch:
        raise InvalidConfig("--over: needs a later prompt, given by --at")
    length, unit = arguments.over
    block_s = card.num_frames(1) / card.video.fps
    num_blocks = max(1, round(length / block_s)) if unit else int(length)
    if num_blocks > MAX_TRANSITION_BLOCKS:
        most = f"{MAX_TRANSITION_BLOCKS} blocks, {MAX_TRANSITION_BLOCKS * block_s:g} s"
        raise InvalidConfig(f"--over: {length:g}{unit} is longer than {most}")
    return Transition(num_blocks, arguments.interpolation or "linear")


def switches(given: Sequence[tuple[int, Prompt]]) -> dict[int, Prompt]:
    blocks = [block for block, _ in given]
    twice = [block for block in blocks if blocks.count(block) > 1]
    if twice:
        raise InvalidConfig(f"--switch: block {twice[0]} is given twice")
    return dict(given)
