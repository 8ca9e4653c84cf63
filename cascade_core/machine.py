"""This machine: what a measured figure needs beside it, and what its processor is good at."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What to record beside a figure that is measured now."""
    import torch  # here and below: those who count threads need none of it

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies matrices in bfloat16 (AMX, AVX512-BF16); other CPUs gain nothing from it."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def num_threads(num_processes: int = 1) -> int:
    """CPU threads for each of `num_processes` that compute at once: OMP_NUM_THREADS, which whoever shares out
    a machine sets, else an equal part of the cores that this process may run on."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is for nested teams
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return max(1, len(os.sched_getaffinity(0)) // num_processes)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
