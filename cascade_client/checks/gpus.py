"""GPUs and the links between them, as the driver reports them."""

import json
import shutil
import sys
from collections.abc import Sequence

from cascade_client.checks.finding import Finding, run
from cascade_client.console import Options
from cascade_client.local.plan import is_there

GIB = 2**30
GPU_PROBE = """
import json, pynvml as n
n.nvmlInit()
gpus = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
def ask(f, *a):
    try: return f(*a)
    except n.NVMLError: return None
link = n.NVML_P2P_CAPS_INDEX_NVLINK
peers = [ask(n.nvmlDeviceGetP2PStatus, a, b, link) for a in gpus for b in gpus if a != b]
names = [n.nvmlDeviceGetName(g) for g in gpus]
free = [n.nvmlDeviceGetMemoryInfo(g).free for g in gpus]
print(json.dumps({"names": names, "free": free, "peers": peers}))
"""


async def check_gpus(options: Options) -> Sequence[Finding]:
    if not is_there("pynvml"):
        return [await gpus_by_tool(options.model)]
    status, output = await run(sys.executable, "-c", GPU_PROBE)
    if status != 0:
        return [no_gpus(options.model)]
    gpus = json.loads(output)
    free = ", ".join(
        f"{name} ({free / GIB:.0f} GiB free)" for name, free in zip(gpus["names"], gpus["free"], strict=True)
    )
    found = [Finding("GPUs", "ok", free or "none")]
    if len(gpus["names"]) > 1:
        found.append(links(gpus["peers"]))
    return found


def links(peers: Sequence[int | None]) -> Finding:
    """NVML: 0 is a link that works."""
    num_linked = sum(peer == 0 for peer in peers)
    text = f"NVLink between {num_linked} of {len(peers)} ordered pairs of GPUs"
    if num_linked == len(peers):
        return Finding("GPU links", "ok", text)
    advice = "ranks on GPUs without NVLink exchange through PCIe, several times slower"
    return Finding("GPU links", "warn", text, advice)


def no_gpus(model: str) -> Finding:
    if model == "demo":
        return Finding("GPUs", "ok", "none that a driver reports: the demo model runs on the CPU")
    return Finding("GPUs", "warn", "none that a driver reports", f"{model} is too slow to watch on a CPU")


async def gpus_by_tool(model: str) -> Finding:
    if not shutil.which("nvidia-smi"):
        return no_gpus(model)
    status, output = await run("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    if status != 0:
        return Finding("GPUs", "warn", "nvidia-smi fails", "look at the driver: run nvidia-smi")
    return Finding("GPUs", "ok", ", ".join(output.split("\n")).strip(", ") or "none")
