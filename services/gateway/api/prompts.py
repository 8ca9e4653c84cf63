"""What no stage would take: prompts that are too long, as far as that shows without the model's tokenizer,
and mixes and transitions where all are of a former release."""

from collections.abc import Sequence

from cascade.v1 import common_pb2, session_pb2, stage_pb2
from cascade_core.errors import InvalidPrompt
from services.common.errors import with_details
from services.common.validation import InvalidField


def check_prompt(field: str, text: str, model: stage_pb2.ModelInfo | None) -> None:
    """Raise InvalidPrompt for more words than the model takes tokens, since each word is at least one. What
    is too long in tokens alone, the stage refuses."""
    limit = model.max_prompt_tokens if model else 0
    num_words = len(text.split())
    if limit and num_words > limit:
        message = f"the prompt has {num_words} words; the model takes at most {limit} tokens"
        raise with_details(InvalidPrompt(f"{field}: {message}"), violations=[(field, message)])


def check_offered(field: str, num_blocks: int, offers: Sequence[stage_pb2.ModelInfo]) -> None:
    """Raise InvalidField unless some stage takes a transition of so many blocks; with 1, whether it takes
    mixes."""
    most = max((info.max_transition_blocks for info in offers), default=num_blocks)
    if not most:
        raise InvalidField([(field, "is not offered: the stages of this model are of a former release")])
    if num_blocks > most:
        raise InvalidField(
            [(field, f"{num_blocks} is more than {most}, which the stages of this model take")]
        )


def check_mode(
    field: str,
    mode: "common_pb2.SwitchMode.ValueType",
    offers: Sequence[stage_pb2.ModelInfo],
    is_gradual: bool,
) -> None:
    """Raise InvalidField unless some stage takes switches of this mode."""
    if mode == common_pb2.SWITCH_MODE_CUT and offers and not any(offer.scene_cuts for offer in offers):
        raise InvalidField([(field, f"cut: {offers[0].model} was not made for scene cuts")])
    if mode == common_pb2.SWITCH_MODE_CUT and is_gradual:
        raise InvalidField([(field, "a cut has no transition")])


def check_switch(
    asked: session_pb2.PromptSwitch, model: stage_pb2.ModelInfo | None, offers: Sequence[stage_pb2.ModelInfo]
) -> None:
    """Raise InvalidPrompt or InvalidField where no stage would take it."""
    check_mode("prompt_switch.mode", asked.mode, offers, asked.HasField("transition"))
    if not asked.HasField("mix"):
        check_prompt("prompt_switch.text", asked.text, model)
    for place, part in enumerate(asked.mix.prompts):
        check_offered("prompt_switch.mix", 1, offers)
        check_prompt(f"prompt_switch.mix.prompts[{place}].text", part.text, model)
    if asked.HasField("transition"):
        check_offered("prompt_switch.transition.num_blocks", asked.transition.num_blocks, offers)
