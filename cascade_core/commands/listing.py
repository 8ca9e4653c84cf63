"""The table of `cascade-engine models`."""

import json
from typing import Any

from cascade_core.config import ModelCard, TransformerConfig, load_cards
from cascade_core.weights.locate import missing_files

GIB = 2**30


def num_parameters(config: TransformerConfig) -> int:
    """Parameters of the transformer, from its dimensions."""
    dim, ffn = config.dim, config.ffn_dim
    attention = 4 * dim * (dim + 1) + 2 * dim
    layer = 2 * attention + 2 * dim * ffn + ffn + dim + 6 * dim + 2 * dim
    patch = 4 * config.in_channels
    embeddings = dim * (patch + 1) + dim * (config.text_dim + 1) + dim * (config.freq_dim + 1)
    projections = 2 * dim * (dim + 1) + 6 * dim * (dim + 1)
    return config.num_layers * layer + embeddings + projections + patch * (dim + 1) + 2 * dim


def fp8_bytes(config: TransformerConfig) -> int:
    """The transformer with `quantize = fp8`: of the layers' matrices a byte a weight and a scale a row, else
    bfloat16."""
    dim, ffn = config.dim, config.ffn_dim
    weights, rows = config.num_layers * (8 * dim * dim + 2 * dim * ffn), config.num_layers * (9 * dim + ffn)
    return 2 * (num_parameters(config) - weights) + weights + 4 * rows


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
        "width": card.video.width,
        "height": card.video.height,
        "num_parameters": parameters,
        "weights_bytes": 2 * parameters,
        "fp8_weights_bytes": fp8_bytes(card.transformer),
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
    ]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"
