"""One GPU, and what was ever wrong with it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from cascade.v1 import common_pb2

Kind = Literal["xid", "ecc", "nvlink", "lost", "interconnect", "count", "heat"]
PASSING: Kind = "heat"
"""It ends by itself; every other kind lasts until the process ends."""


@dataclass(frozen=True)
class Fault:
    """Why hardware cannot be trusted."""

    kind: Kind
    """Label of the metric `cascade_quarantined`."""
    text: str
    """For people."""

    @property
    def lasts(self) -> bool:
        return self.kind != PASSING


class Gpu:
    """What its driver says of it."""

    def __init__(self, nvml: Any, index: int, handle: Any, events: Any, max_celsius: int) -> None:
        """`index`: its place among the GPUs of this process, which is the rank that runs on it. Raises
        NVMLError."""
        self.index = index
        self.handle = handle
        self.fault: Fault | None = None
        """The first that lasts; otherwise one that may pass."""
        self._nvml = nvml
        self._max_celsius = max_celsius
        self.uuid = as_text(nvml.nvmlDeviceGetUUID(handle))
        product = as_text(nvml.nvmlDeviceGetName(handle))
        self._info = common_pb2.Accelerator(index=index, product=product[:128], uuid=self.uuid[:128])
        self._links = self._active_links()
        self._ecc_at_start = self._ecc_errors()
        with suppress(nvml.NVMLError):  # not every GPU tells events
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)

    def note(self, fault: Fault) -> None:
        """A fault that was found elsewhere; the first that lasts stays."""
        if not (self.fault and self.fault.lasts):
            self.fault = fault

    def read(self) -> common_pb2.Accelerator:
        """Its measurements, none for a GPU that is lost; a fault goes to `fault`."""
        nvml, info = self._nvml, common_pb2.Accelerator()
        info.CopyFrom(self._info)
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(self.handle)
            info.memory_used_bytes, info.memory_total_bytes = memory.used, memory.total
            info.temperature_celsius = (
                self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU) or 0
            )
            self._judge(info.temperature_celsius)
        except nvml.NVMLError as error:
            self.note(Fault("lost", str(error)))
        return info

    def _judge(self, celsius: int) -> None:
        """Raises NVMLError."""
        if self.fault and self.fault.lasts:
            return
        if errors := self._ecc_errors() - self._ecc_at_start:
            self.fault = Fault("ecc", f"{errors} uncorrected ECC errors")
        elif lost := sorted(self._links - self._active_links()):
            self.fault = Fault("nvlink", f"NVLink down: {', '.join(map(str, lost))}")
        else:
            is_hot = celsius > self._max_celsius
            self.fault = Fault("heat", f"{celsius} degrees Celsius") if is_hot else None

    def _ecc_errors(self) -> int:
        """Since the driver was loaded; those of before our start are somebody else's to judge."""
        nvml = self._nvml
        kinds = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        return self._ask(nvml.nvmlDeviceGetTotalEccErrors, *kinds) or 0

    def _active_links(self) -> set[int]:
        nvml = self._nvml
        links = range(nvml.NVML_NVLINK_MAX_LINKS)
        return {link for link in links if self._ask(nvml.nvmlDeviceGetNvLinkState, link)}

    def _ask(self, question: Callable[..., int], *values: int) -> int | None:
        """None where this kind of GPU, or a slice of one, cannot tell."""
        nvml = self._nvml
        try:
            return question(self.handle, *values)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument, nvml.NVMLError_NoPermission):
            return None


def as_text(value: str | bytes) -> str:
    """Older bindings give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
