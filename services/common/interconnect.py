"""Whether the GPUs of one stage reach each other: asked of the driver before a model is loaded on them."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import structlog

from services.common.gpu import Fault, Gpu

log = structlog.get_logger(__name__)
Interconnect = Literal["none", "p2p", "nvlink"]
NAMES = {"p2p": "P2P", "nvlink": "NVLink"}


def check_interconnect(nvml: Any, gpus: Sequence[Gpu], need: Interconnect) -> None:
    """Note a fault at both GPUs of each pair that lacks what is needed. What a driver cannot tell, as with
    slices of a GPU, is logged, and is no fault. Raises NVMLError."""
    if need == "none" or len(gpus) < 2:
        return
    lacking: dict[int, list[str]] = defaultdict(list)
    for one, other in combinations(gpus, 2):
        problem = find_problem(nvml, one.handle, other.handle, need)
        log.info("interconnect", gpus=(one.index, other.index), path=path(nvml, one, other), problem=problem)
        if problem:
            lacking[one.index].append(f"{other.index} ({problem})")
            lacking[other.index].append(f"{one.index} ({problem})")
    for index, others in lacking.items():
        gpus[index].note(Fault("interconnect", f"no {NAMES[need]} to GPU {', '.join(others)}"))


def find_problem(nvml: Any, one: Any, other: Any, need: Interconnect) -> str:
    """What the driver says against it; empty: nothing."""
    read, write, nvlink = (
        nvml.NVML_P2P_CAPS_INDEX_READ,
        nvml.NVML_P2P_CAPS_INDEX_WRITE,
        nvml.NVML_P2P_CAPS_INDEX_NVLINK,
    )
    for ability in (read, write) if need == "p2p" else (nvlink,):
        try:
            status = nvml.nvmlDeviceGetP2PStatus(one, other, ability)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument, nvml.NVMLError_NoPermission):
            log.warning("the driver cannot tell whether GPUs reach each other", need=need)
            continue
        if status != nvml.NVML_P2P_STATUS_OK:
            return statuses(nvml).get(status, f"status {status}")
    return ""


def statuses(nvml: Any) -> dict[int, str]:
    return {
        nvml.NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED: "chipset not supported",
        nvml.NVML_P2P_STATUS_GPU_NOT_SUPPORTED: "GPU not supported",
        nvml.NVML_P2P_STATUS_IOH_TOPOLOGY_NOT_SUPPORTED: "not across this topology",
        nvml.NVML_P2P_STATUS_DISABLED_BY_REGKEY: "disabled by the driver's settings",
        nvml.NVML_P2P_STATUS_NOT_SUPPORTED: "not supported",
    }


def path(nvml: Any, one: Gpu, other: Gpu) -> str:
    """What lies between two GPUs on the PCI bus, in the words of `nvidia-smi topo`."""
    names = {
        nvml.NVML_TOPOLOGY_INTERNAL: "same board",
        nvml.NVML_TOPOLOGY_SINGLE: "PIX",
        nvml.NVML_TOPOLOGY_MULTIPLE: "PXB",
        nvml.NVML_TOPOLOGY_HOSTBRIDGE: "PHB",
        nvml.NVML_TOPOLOGY_NODE: "NODE",
        nvml.NVML_TOPOLOGY_SYSTEM: "SYS",
    }
    try:
        return names.get(nvml.nvmlDeviceGetTopologyCommonAncestor(one.handle, other.handle), "unknown")
    except nvml.NVMLError:
        return "unknown"
