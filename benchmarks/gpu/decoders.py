"""Latents to pictures on the host: the model's own VAE, and TAEHV."""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch

from benchmarks.gpu.cases import GIB
from benchmarks.gpu.samples import Row, percentile
from cascade_core.config import ModelCard
from cascade_core.media.taehv import load_taehv
from cascade_core.media.video_decoder import VideoDecoder

WARM_UP = 2
"""Blocks: the first of a session is another size."""


def measure_decoders(card: ModelCard, device: torch.device, repeats: int) -> list[Row]:
    """One session, block after block; a block is done when its pictures are on the host."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    kinds: dict[str, Callable[[], VideoDecoder]] = {"taehv": lambda: load_taehv(card, None, device, dtype)}
    if find_spec("diffusers"):
        from cascade_core.media.vae import load_vae

        kinds = {"vae": lambda: load_vae(card, None, device, dtype), **kinds}
    return [measure_decoder(name, make(), card, device, repeats) for name, make in kinds.items()]


def measure_decoder(
    name: str, decoder: VideoDecoder, card: ModelCard, device: torch.device, repeats: int
) -> Row:
    height, width = card.video.height, card.video.width
    latents = torch.randn(card.latent_shape(height, width))
    state, times = decoder.open(), []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP + repeats):
        started = time.perf_counter()
        decoder.decode(state, latents)  # waits for the device: what it gives is on the host
        times.append(1e3 * (time.perf_counter() - started))
    block_ms = statistics.median(times[WARM_UP:])
    fps = 1e3 * card.num_frames(1) / block_ms
    return {
        "decoder": name,
        "pixels": f"{width}x{height}",
        "block_ms": block_ms,
        "p95_ms": percentile(times[WARM_UP:], 95),
        "fps": fps,
        "sessions_at_card_fps": fps / card.video.fps,
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0,
    }
