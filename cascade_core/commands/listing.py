"""The table of `cascade-engine models`."""

import json
import textwrap
from typing import Any

from cascade_core.config import ModelCard, load_cards
from cascade_core.planning.memory import GIB, num_parameters, weights_bytes
from cascade_core.weights.locate import missing_files

BEGINNINGS = {
    "first_frame": "from a picture as its first, from a clip",
    "clip": "from a clip, and from a picture as one that stands still",
}
TEXT_AT = 13
"""Where the text of a line begins."""


def describe(card: ModelCard, weights: str | None) -> dict[str, Any]:
    """What a person needs to choose a model. A session's size is that in bfloat16."""
    missing = missing_files(card, weights)
    parameters = num_parameters(card.transformer)
    return {
        "name": card.name,
        "title": card.title,
        "licence": card.licence,
        "commercial_use": card.commercial_use,
        "source": card.source,
        "note": card.note,
        "image_start": card.image_start,
        "start_note": card.start_note,
        "width": card.video.width,
        "height": card.video.height,
        "num_parameters": parameters,
        "weights_bytes": weights_bytes(card.transformer),
        "fp8_weights_bytes": weights_bytes(card.transformer, fp8=True),
        "session_bytes": card.session_bytes(card.video.height, card.video.width),
        "missing_files": missing,
        "random_only": weights is None and not card.has_weights,
    }


def list_models(weights: str | None, as_json: bool, columns: int = 0) -> str:
    """All cards, as a table or as JSON. `columns`: of the terminal that shows it, where lines are to fit; 0:
    each stays one line."""
    models = [describe(card, weights) for card in load_cards().values()]
    if as_json:
        return json.dumps(models, indent=2)
    lines = [line for model in models for line in _lines(model)]
    return "\n".join(_fitted(line, columns) if columns else line for line in lines)


def _fitted(line: str, columns: int) -> str:
    """What it goes on with stands under its text; addresses and paths stay whole."""
    text = line.lstrip()
    start = len(line) - len(text)
    indent = " " * (TEXT_AT if start else 2)
    wrapper = textwrap.TextWrapper(
        max(24, columns - 1),
        initial_indent=" " * start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.wrap(text))


def _lines(model: dict[str, Any]) -> list[str]:
    use = "commercial use allowed" if model["commercial_use"] else "check before commercial use"
    if model["random_only"]:
        files = "no weights: runs on random ones"
    elif model["missing_files"]:
        files = f"{len(model['missing_files'])} not here:"
    else:
        files = "all present"
    sizes = f"{size(model['weights_bytes'])} in bf16, {size(model['fp8_weights_bytes'])} in fp8"
    parameters = f"{model['num_parameters'] / 1e9:.3g} B parameters, {sizes}"
    session = f"{model['width']}x{model['height']}, {size(model['session_bytes'])} a session on each rank"
    how_well = model["start_note"] or "How well was not tried."
    return [
        f"{model['name']}  {model['title']}",
        f"    licence  {model['licence']} ({use}) · {model['source']}",
        f"    size     {parameters}; {session}",
        f"    files    {files}",
        *(" " * TEXT_AT + file for file in model["missing_files"]),
        f"    begins   {BEGINNINGS[model['image_start']]}. {how_well}",
        *([f"    note     {model['note']}"] if model["note"] else []),
    ]


def size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"
