"""Which of the machine's GPUs are this process's: those that CUDA will show it."""

import os
from collections.abc import Mapping
from typing import Any

from services.common.gpu import as_text

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(nvml: Any, environment: Mapping[str, str] = os.environ) -> list[Any]:
    """NVML handles in CUDA's order: what the container sees, as `CUDA_VISIBLE_DEVICES` restricts it. A
    number is taken as NVML's, which differs from CUDA's own only on machines with unlike GPUs. Raises
    NVMLError."""
    count = nvml.nvmlDeviceGetCount()
    if VISIBLE not in environment:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    found = []
    for name in environment[VISIBLE].split(","):
        handle = find_gpu(nvml, name.strip(), count)
        if handle is None:  # CUDA too stops at the first that it does not know
            break
        found.append(handle)
    return found


def find_gpu(nvml: Any, name: str, count: int) -> Any:
    """By its number, the beginning of its id, or the id of a slice (MIG) of it; None: there is none."""
    if name.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(name)) if int(name) < count else None
    if name.startswith("MIG-"):
        try:
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvml.nvmlDeviceGetHandleByUUID(name))
        except nvml.NVMLError:
            return None
    if not name.startswith("GPU-"):
        return None
    handles = (nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count))
    return next((one for one in handles if as_text(nvml.nvmlDeviceGetUUID(one)).startswith(name)), None)
