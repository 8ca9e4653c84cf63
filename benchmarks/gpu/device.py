"""The device alone: its attention kernels, its ceilings, its name."""

import subprocess
from functools import partial

import torch

from benchmarks.clock import Clock
from benchmarks.gpu.cases import GIB, TRAINED_WINDOW_FRAMES
from benchmarks.gpu.samples import Row
from cascade_core.attention.attention import kernels
from cascade_core.config import ModelCard
from cascade_core.machine import machine


def measure_kernels(card: ModelCard, device: torch.device, repeats: int) -> list[Row]:
    """One block's queries over a whole window of keys, by every attention kernel there is."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    heads = card.transformer.num_heads, card.transformer.head_dim
    num_keys = tokens * TRAINED_WINDOW_FRAMES // card.window.block_frames
    query = torch.randn(tokens, *heads, device=device, dtype=dtype)
    key, value = torch.randn(2, num_keys, *heads, device=device, dtype=dtype)
    rows: list[Row] = []
    for name, kernel in kernels(device.type, dtype).items():
        with torch.inference_mode():
            ms = Clock(device).repeat(partial(kernel, query, key, value), repeats)
        flops = 4.0 * tokens * num_keys * card.transformer.dim
        rows.append(
            {"kernel": name, "heads": heads[0], "queries": tokens, "keys": num_keys}
            | {"ms": ms, "tflop_s": flops / 1e9 / ms}
        )
    return rows


def measure_ceilings(device: torch.device, repeats: int) -> Row:
    """What this device reaches: a large matrix product, and a large copy (bytes read and written)."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (256, torch.float32)
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    source = torch.randn(size, 32 * size, device=device, dtype=dtype)
    target = torch.empty_like(source)
    clock = Clock(device)
    matmul_ms = clock.repeat(lambda: left @ right, repeats)
    copy_ms = clock.repeat(lambda: target.copy_(source), repeats)
    return {
        "matmul_tflop_s": 2.0 * size**3 / 1e9 / matmul_ms,
        "copy_gb_s": 2.0 * source.numel() * dtype.itemsize / 1e6 / copy_ms,
    }


def hardware(device: torch.device) -> Row:
    """The machine and its GPU."""
    if device.type != "cuda":
        return machine() | {"gpu": "no GPU", "driver": "none"}
    properties = torch.cuda.get_device_properties(device)
    return machine() | {
        "gpu": properties.name,
        "gpu_gib": properties.total_memory / GIB,
        "gpus": torch.cuda.device_count(),
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
