"""Prompts that are too long for their model, as far as that shows without its tokenizer."""

from cascade.v1 import stage_pb2
from cascade_core.errors import InvalidPrompt
from services.common.errors import with_details


def check_prompt(field: str, text: str, model: stage_pb2.ModelInfo | None) -> None:
    """Raise InvalidPrompt for more words than the model takes tokens, since each word is at least one. What
    is too long in tokens alone, the stage refuses."""
    limit = model.max_prompt_tokens if model else 0
    num_words = len(text.split())
    if limit and num_words > limit:
        message = f"the prompt has {num_words} words; the model takes at most {limit} tokens"
        raise with_details(InvalidPrompt(f"{field}: {message}"), violations=[(field, message)])
