"""What may stand where a prompt is taken, and how one goes over into the next. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from cascade_core.errors import InvalidPrompt, InvalidRequest

MAX_PROMPT_CHARACTERS = 32_768
"""A longer prompt is refused before it travels; the text encoder counts the tokens that the model takes."""
MAX_MIXED_PROMPTS = 8
"""Prompts of one mix."""
MAX_WEIGHT = 1000.0
MAX_TRANSITION_BLOCKS = 64

Interpolation = Literal["linear", "slerp"]


@dataclass(frozen=True)
class WeightedPrompt:
    """One prompt of a mix."""

    text: str
    weight: float = 1.0
    """Above 0, up to MAX_WEIGHT; the weights of a mix count in proportion to their sum."""


def one_of_both(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """One complaint, where neither form fits."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError("must be a text, or a tuple of WeightedPrompt") from None


Prompt: TypeAlias = Annotated[str | tuple[WeightedPrompt, ...], WrapValidator(one_of_both)]
"""A text, or a mix: the weighted mean of its texts' embeddings."""


@dataclass(frozen=True)
class Transition:
    """How a new prompt takes over from the one before it: gradually, block after block."""

    num_blocks: int
    """Blocks that are made under a mix of both, 1 to MAX_TRANSITION_BLOCKS: the i-th of n has i / (n + 1) of
    the new prompt, and the one after them is the first that has it alone."""
    interpolation: Interpolation = "linear"
    """linear: embeddings are mixed. slerp: each token's direction turns along the shortest arc."""


def parts(prompt: Prompt) -> tuple[WeightedPrompt, ...]:
    """The prompt as a mix; one text is a mix of itself."""
    return (WeightedPrompt(prompt),) if isinstance(prompt, str) else prompt


def readable(prompt: Prompt) -> str:
    """For people: the text, or each text behind its share, the largest first."""
    if isinstance(prompt, str):
        return prompt
    total = sum(part.weight for part in prompt)
    shares = sorted(prompt, key=lambda part: -part.weight)
    return " + ".join(f"{part.weight / total:.0%} {part.text}" for part in shares)


def check_prompt(name: str, prompt: Prompt) -> None:
    """Raise InvalidPrompt where it is empty or absurdly long, or its mix has too many or bad weights."""
    mixed = parts(prompt)
    if not 1 <= len(mixed) <= MAX_MIXED_PROMPTS:
        raise InvalidPrompt(f"{name} mixes {len(mixed)} prompts, not 1 to {MAX_MIXED_PROMPTS}")
    for part in mixed:
        if not part.text.strip():
            raise InvalidPrompt(f"{name} is empty")
        if len(part.text) > MAX_PROMPT_CHARACTERS:
            raise InvalidPrompt(f"{name} has {len(part.text)} characters, more than {MAX_PROMPT_CHARACTERS}")
        if not (math.isfinite(part.weight) and 0 < part.weight <= MAX_WEIGHT):
            raise InvalidPrompt(f"{name} has a weight of {part.weight}, not above 0 and up to {MAX_WEIGHT:g}")


def check_transition(name: str, transition: Transition | None) -> None:
    """Raise InvalidRequest where its length is out of range."""
    if transition and not 1 <= transition.num_blocks <= MAX_TRANSITION_BLOCKS:
        raise InvalidRequest(
            f"{name}.num_blocks: {transition.num_blocks} is not in 1..{MAX_TRANSITION_BLOCKS}"
        )
