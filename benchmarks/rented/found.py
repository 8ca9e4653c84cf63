"""What this machine is: Python, torch, GPUs. Looked at in a process of its own, as torch takes seconds."""

import json
import subprocess
import sys
from typing import Any

from benchmarks.rented.packages import CannotRun

MIN_TORCH = (2, 11)
DEADLINE_S = 120.0
LOOK = """
import json, platform, datetime, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({
    "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    "python": platform.python_version(),
    "torch": str(torch.__version__),
    "num_gpus": count,
    "gpu": torch.cuda.get_device_name(0) if count else None,
}))
"""


def look(device: str) -> dict[str, Any]:
    """Raises CannotRun where torch is absent or old, or a GPU is wanted and not there."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotRun(f"torch did not answer within {DEADLINE_S:g} s: is the GPU's driver well?") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise CannotRun(f"torch does not run in {sys.executable}: {said[0]}")
    machine: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if version(machine["torch"]) < MIN_TORCH:
        needed = ".".join(map(str, MIN_TORCH))
        raise CannotRun(f"torch {machine['torch']} is too old: {needed} or newer is needed")
    if device == "cuda" and not machine["num_gpus"]:
        raise CannotRun("no CUDA device here; `make gpu DEVICE=cpu` tries the same plan with tiny sizes")
    return machine


def version(text: str) -> tuple[int, ...]:
    """`2.11.0a0+gitabc` -> (2, 11)."""
    return tuple(int(part) for part in text.split(".")[:2])
