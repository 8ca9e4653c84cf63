"""The table of `cascade-engine models`."""

import json
from typing import Any

from cascade_core.config import ModelCard, load_cards
from cascade_core.planning.memory import GIB, num_parameters, weights_bytes
from cascade_core.weights.locate import missing_files

BEGINNINGS = {
    "first_frame": "from a picture as its first, from a clip",
    "clip": "from a clip, and from a picture as one that stands still",
}


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


def list_models(weights: str | None, as_json: bool) -> str:
    """All cards, as a table or as JSON."""
    models = [describe(card, weights) for card in load_cards().values()]
    if as_json:
        return json.dumps(models, indent=2)
    return "\n".join(line for model in models for line in _lines(model))


def _lines(model: dict[str, Any]) -> list[str]:
    use = "commercial use allowed" if model["commercial_use"] else "check before commercial use"
    if model["random_only"]:
        files = "no weights: runs on random ones"
    elif model["missing_files"]:
        files = "\n             ".join([f"{len(model['missing_files'])} not here:", *model["missing_files"]])
    else:
        files = "all present"
    sizes = f"{_size(model['weights_bytes'])} in bf16, {_size(model['fp8_weights_bytes'])} in fp8"
    parameters = f"{model['num_parameters'] / 1e9:.3g} B parameters, {sizes}"
    session = f"{model['width']}x{model['height']}, {_size(model['session_bytes'])} a session on each rank"
    return [
        f"{model['name']}  {model['title']}",
        f"    licence  {model['licence']} ({use}) · {model['source']}",
        f"    size     {parameters}; {session}",
        f"    files    {files}",
        f"    begins   {BEGINNINGS[model['image_start']]}: {model['start_note'] or 'how well was not tried'}",
        *([f"    note     {model['note']}"] if model["note"] else []),
    ]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"
