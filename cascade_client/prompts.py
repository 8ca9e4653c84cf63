"""What may stand where a prompt is taken, and how gradually it takes over, in the contract's messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cascade.v1 import common_pb2

Interpolation = Literal["linear", "slerp"]
Prompt: TypeAlias = str | Mapping[str, float]
"""A text, or a mix of several: weights by text, which count in proportion to their sum."""
MAX_TRANSITION_BLOCKS = 64


@dataclass(frozen=True)
class Transition:
    """A new prompt takes over gradually."""

    num_blocks: int
    """Blocks that are made under a mix of both prompts, 1 to 64."""
    interpolation: Interpolation = "linear"


def text_of(prompt: Prompt) -> str:
    """Of a mix none: the server writes what people read of it."""
    return prompt if isinstance(prompt, str) else ""


def mix_message(prompt: Prompt) -> common_pb2.PromptMix | None:
    if isinstance(prompt, str):
        return None
    parts = (common_pb2.WeightedPrompt(text=text, weight=weight) for text, weight in prompt.items())
    return common_pb2.PromptMix(prompts=parts)


def transition_message(transition: Transition | None) -> common_pb2.Transition | None:
    if transition is None:
        return None
    interpolation = common_pb2.Interpolation.Value(f"INTERPOLATION_{transition.interpolation.upper()}")
    return common_pb2.Transition(num_blocks=transition.num_blocks, interpolation=interpolation)
