"""Mixes and transitions: the contract's messages in the engine's words, and back."""

from typing import Final

from cascade.v1 import common_pb2
from cascade_core.prompts import Interpolation, Transition, WeightedPrompt

Mix = tuple[WeightedPrompt, ...]
INTERPOLATIONS: Final[dict["common_pb2.Interpolation.ValueType", Interpolation]] = {
    common_pb2.INTERPOLATION_UNSPECIFIED: "linear",
    common_pb2.INTERPOLATION_LINEAR: "linear",
    common_pb2.INTERPOLATION_SLERP: "slerp",
}


def mix_of(message: common_pb2.PromptMix) -> Mix:
    return tuple(WeightedPrompt(prompt.text, prompt.weight) for prompt in message.prompts)


def to_mix(mix: Mix) -> common_pb2.PromptMix:
    prompts = (common_pb2.WeightedPrompt(text=part.text, weight=part.weight) for part in mix)
    return common_pb2.PromptMix(prompts=prompts)


def transition_of(message: common_pb2.Transition) -> Transition | None:
    """None for a field that was left out."""
    if not message.num_blocks:
        return None
    return Transition(message.num_blocks, INTERPOLATIONS[message.interpolation])


def to_transition(transition: Transition | None) -> common_pb2.Transition | None:
    if transition is None:
        return None
    numbers = {name: number for number, name in INTERPOLATIONS.items()}
    return common_pb2.Transition(
        num_blocks=transition.num_blocks, interpolation=numbers[transition.interpolation]
    )
