"""Whether the GPUs can be trusted, asked of NVIDIA's driver on its own thread: a broken GPU can hang it."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from cascade.v1 import common_pb2
from services.common.settings import GpuSettings

log = structlog.get_logger(__name__)

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Errors of a program, which a healthy GPU reports too."""
MAX_GPUS = 16


class Gpu:
    """One GPU and what was ever wrong with it."""

    def __init__(self, nvml: Any, index: int, events: Any, max_celsius: int) -> None:
        self._nvml = nvml
        self.handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self.xid = 0
        """The last Xid that speaks of broken hardware: it stays until the process ends."""
        self._max_celsius = max_celsius
        self._info = common_pb2.Accelerator(
            index=index,
            product=text(nvml.nvmlDeviceGetName(self.handle))[:128],
            uuid=text(nvml.nvmlDeviceGetUUID(self.handle))[:128],
        )
        self._links = self._active_links()
        self._ecc_at_start = self._ecc_errors()
        with contextlib.suppress(nvml.NVMLError):  # not every GPU tells events
            nvml.nvmlDeviceRegisterEvents(self.handle, nvml.nvmlEventTypeXidCriticalError, events)

    def read(self) -> common_pb2.Accelerator:
        """Raises NVMLError where the GPU does not answer what every GPU answers."""
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(self.handle)
        celsius = self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU) or 0
        info = common_pb2.Accelerator(
            memory_used_bytes=memory.used, memory_total_bytes=memory.total, temperature_celsius=celsius
        )
        info.MergeFrom(self._info)
        info.fault = self._fault(celsius)
        return info

    def _fault(self, celsius: int) -> str:
        if self.xid:
            return f"Xid {self.xid}"
        if errors := self._ecc_errors() - self._ecc_at_start:
            return f"{errors} uncorrected ECC errors"
        if lost := sorted(self._links - self._active_links()):
            return f"NVLink down: {', '.join(str(link) for link in lost)}"
        return f"{celsius} degrees Celsius" if celsius > self._max_celsius else ""

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


class GpuWatch:
    """The latest state of all GPUs; empty where there is no driver."""

    def __init__(
        self, settings: GpuSettings, nvml: Any = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`nvml` None: the driver of this machine."""
        self._settings = settings
        self._nvml = nvml or driver()
        self._clock = clock
        self._latest: list[common_pb2.Accelerator] = []
        self._answered_at: float | None = None
        """None: no driver."""
        self._broken = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it is a daemon, so one that hangs keeps nobody."""
        self._stopping.set()

    def accelerators(self) -> list[common_pb2.Accelerator]:
        return self._latest

    def complaint(self) -> str | None:
        """Why the GPUs cannot be trusted, if so."""
        if self._broken:
            return self._broken
        if (
            self._answered_at is not None
            and (silent_s := self._clock() - self._answered_at) > self._settings.gpu_deadline_s
        ):
            return f"the GPU driver has not answered for {silent_s:.0f} s"
        faults = (f"GPU {gpu.index}: {gpu.fault}" for gpu in self._latest if gpu.fault)
        return "; ".join(faults) or None

    def _run(self) -> None:
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            log.info("no GPUs to watch", reason=str(error))
            return
        self._answered_at = self._clock()
        try:
            self._watch()
        except self._nvml.NVMLError as error:
            log.error("GPUs cannot be watched any more", reason=str(error))
            self._broken = f"the GPU driver: {error}"
        finally:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _watch(self) -> None:
        events = self._nvml.nvmlEventSetCreate()
        try:
            count = min(self._nvml.nvmlDeviceGetCount(), MAX_GPUS)
            gpus = [Gpu(self._nvml, index, events, self._settings.max_gpu_celsius) for index in range(count)]
            while not self._stopping.is_set():
                self._latest = [gpu.read() for gpu in gpus]
                self._answered_at = self._clock()
                self._await_event(events, gpus)
        finally:
            self._nvml.nvmlEventSetFree(events)

    def _await_event(self, events: Any, gpus: list[Gpu]) -> None:
        try:
            event = self._nvml.nvmlEventSetWait_v2(events, int(self._settings.gpu_check_interval_s * 1000))
        except self._nvml.NVMLError_Timeout:
            return
        except self._nvml.NVMLError:  # no GPU here tells events; one that is lost shows when it is read
            self._stopping.wait(self._settings.gpu_check_interval_s)
            return
        xid = int(event.eventData)
        log.warning("Xid", xid=xid, counts=xid not in APPLICATION_XIDS)
        if xid in APPLICATION_XIDS:
            return
        uuid = self._nvml.nvmlDeviceGetUUID(event.device)
        for gpu in gpus:
            if self._nvml.nvmlDeviceGetUUID(gpu.handle) == uuid:
                gpu.xid = xid


def driver() -> Any:
    """NVIDIA's bindings, which only services on GPUs have installed."""
    import pynvml  # type: ignore[import-untyped]

    return pynvml


def text(value: str | bytes) -> str:
    """Older bindings give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
