"""From one measured rank to the whole cascade, and what that assumes."""

from benchmarks.gpu.samples import Row
from cascade_core.config import ModelCard

NVLINK_GB_S = 450.0
"""What one GPU can receive over the NVLink of an H100 or H200 (900 GB/s, both ways together)."""

ASSUMPTIONS = (
    "FPS counts 12 frames per block; text encoder and VAE are not in it, as in the paper.",
    "A tick is queued while the one before runs, as the worker does.",
    "Cascade FPS is projected, not measured: one rank ran here, of as many as a block has passes "
    "(`projected_ranks`), with one block in flight per rank. All ranks advance together, so the slowest "
    "position in flight sets the tick.",
    "The other ranks' K/V were copied within this GPU on a stream of its own: the memory traffic of the "
    "gather is in the figure; NCCL's launches, its use of multiprocessors and uneven ranks are not.",
    f"NVLink is taken as {NVLINK_GB_S:.0f} GB/s into each GPU. A gather longer than the attention to the "
    "clean cache that it runs beside adds the difference to the tick (`exposed_ms`); `gb_s_to_hide_it` is "
    "what the position with the least clean cache needs for none.",
)


def gathered_bytes(card: ModelCard, itemsize: int) -> int:
    """Bytes of K/V that a rank receives in a tick of the full cascade, one block per rank."""
    dims, num_ranks = card.transformer, card.sampling.num_passes
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    return 2 * dims.num_layers * (num_ranks - 1) * tokens * dims.dim * itemsize


def project(card: ModelCard, passes: list[Row], positions: list[Row], itemsize: int) -> Row:
    """FPS of both, and what the network must do; adds `exposed_ms` to each position of the cascade."""
    received = gathered_bytes(card, itemsize)
    for row in positions:
        row["exposed_ms"] = max(0.0, received / NVLINK_GB_S / 1e6 - row["clean_ms"])
    sequential_ms = sum(row["tick_ms"] for row in passes)
    cascade_ms = max(row["tick_ms"] + row["exposed_ms"] for row in positions)
    num_ranks = card.sampling.num_passes
    frames = card.num_frames(1)
    return {
        "sequential_fps": 1e3 * frames / sequential_ms,
        "slowest_tick_ms": cascade_ms,
        "projected_ranks": num_ranks,
        "projected_fps": 1e3 * frames / cascade_ms,
        "ratio": sequential_ms / cascade_ms,
        "ceiling": float(num_ranks),
        "gathered_gb_per_tick": received / 1e9,
        "gb_s_to_hide_it": max(received / 1e6 / row["clean_ms"] for row in positions),
    }
