"""What fits into a GPU: weights, text encoder, sessions."""

from cascade_core.config import ModelCard, TransformerConfig
from cascade_core.errors import InvalidConfig
from cascade_core.planning.gpus import DataSheet
from cascade_core.planning.low_rank import Loras

MEMORY_SHARE = 0.9
"""Part of a rank's free memory that sessions may take; the rest is for activations."""
NO_LORAS = Loras()
GIB = 2**30
GB = 10**9
CONTEXT_BYTES = 1 * GB
"""CUDA's context, its libraries' workspaces and the allocator's waste."""
UMT5_XXL_DIM = 4096
UMT5_XXL_BYTES = 2 * 5_680_910_336
"""The text encoder of Wan in bfloat16; it lies on rank 0."""


def num_parameters(config: TransformerConfig) -> int:
    """Parameters of the transformer, from its dimensions."""
    dim, ffn = config.dim, config.ffn_dim
    attention = 4 * dim * (dim + 1) + 2 * dim
    layer = 2 * attention + 2 * dim * ffn + ffn + dim + 6 * dim + 2 * dim
    patch = 4 * config.in_channels
    embeddings = dim * (patch + 1) + dim * (config.text_dim + 1) + dim * (config.freq_dim + 1)
    projections = 2 * dim * (dim + 1) + 6 * dim * (dim + 1)
    return config.num_layers * layer + embeddings + projections + patch * (dim + 1) + 2 * dim


def weights_bytes(config: TransformerConfig, fp8: bool = False) -> int:
    """Of the transformer in bfloat16; with `fp8` its layers have a byte a weight and a scale a row."""
    dim, ffn = config.dim, config.ffn_dim
    weights, rows = config.num_layers * (8 * dim * dim + 2 * dim * ffn), config.num_layers * (9 * dim + ffn)
    return 2 * num_parameters(config) + (4 * rows - weights if fp8 else 0)


def text_encoder_bytes(config: TransformerConfig) -> int:
    """Of a model whose text encoder is UMT5-XXL; smaller ones count as nothing."""
    return UMT5_XXL_BYTES if config.text_dim == UMT5_XXL_DIM else 0


def session_budget(card: ModelCard, gpu: DataSheet, fp8: bool, loras: Loras = NO_LORAS) -> float:
    """Bytes that sessions may take on rank 0, which has the least; may be negative."""
    dims = card.transformer
    taken = weights_bytes(dims, fp8) + text_encoder_bytes(dims) + CONTEXT_BYTES + loras.memory_bytes(dims)
    return MEMORY_SHARE * (gpu.memory_gb * GB - taken)


def num_sessions(
    card: ModelCard, gpu: DataSheet, height: int, width: int, fp8: bool, loras: Loras = NO_LORAS
) -> int:
    """Sessions that fit on every rank. Raises InvalidConfig where not even one does."""
    session = card.session_bytes(height, width)
    fits = int(session_budget(card, gpu, fp8, loras) // session)
    if fits >= 1:
        return fits
    dims = card.transformer
    listed = f"{_gib(loras.memory_bytes(dims))} for LoRAs, " if loras.num_listed else ""
    raise InvalidConfig(
        f"gpu: {card.name} does not fit into {gpu.name}: of {_gib(gpu.memory_gb * GB)} rank 0 needs "
        f"{_gib(weights_bytes(dims, fp8))} for weights, {_gib(text_encoder_bytes(dims))} for the text "
        f"encoder, {listed}{_gib(session)} for a session of {width}x{height}, and a tenth of the rest is "
        "kept free"
    )


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
