"""Python, packages, cores and memory."""

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from cascade_client.checks.finding import Finding, Status
from cascade_client.console import Options
from cascade_client.local.plan import INSTALL, has_services, is_there

MIN_MEMORY_GIB = 4.0
GIB = 2**30
CLIENT = {"client": ("grpc", "google.protobuf", "google.rpc", "shtab", "tqdm", "cascade.v1")}
SERVICES = {
    "stage": ("services.stage", "torch", "transformers", "safetensors", "sentencepiece", "ftfy"),
    "decoder": ("services.decoder", "torch", "diffusers", "av"),
    "gateway": ("services.gateway", "redis", "structlog", "protovalidate", "jwt"),
}


async def check_python(options: Options) -> Sequence[Finding]:
    return [Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")]


async def check_packages(options: Options) -> Sequence[Finding]:
    found = []
    for role, modules in (CLIENT | SERVICES if has_services() else CLIENT).items():
        missing = [module for module in modules if not is_there(module)]
        if missing:
            status: Status = "fail" if role == "client" else "warn"
            advice = f"{install(role)}, if it is to run on this machine"
            found.append(Finding(f"{role} packages", status, f"missing: {', '.join(missing)}", advice))
        else:
            found.append(Finding(f"{role} packages", "ok", "installed"))
    if not has_services():
        found.append(
            Finding("services", "ok", "not installed: this is the client alone", f"to run them: {INSTALL}")
        )
    return found


def install(role: str) -> str:
    """What to type; services are in no package index."""
    if role == "client":
        return "pip install cascade-client"
    return f"in a checkout of Cascade: pip install --editable '.[{role}]'"


async def check_machine(options: Options) -> Sequence[Finding]:
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = free_memory()
    if free is None:
        return [Finding("machine", "ok", f"{num_cores} CPU cores")]
    free_gib = free / GIB
    text = f"{num_cores} CPU cores, {free_gib:.1f} GiB of memory free"
    if free_gib < MIN_MEMORY_GIB:
        return [Finding("machine", "warn", text, f"the demo wants {MIN_MEMORY_GIB:g} GiB: close something")]
    return [Finding("machine", "ok", text)]


def free_memory() -> int | None:
    """Bytes that a new process can have; None: unknown here."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        if not hasattr(os, "sysconf"):  # Windows
            return None
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
