"""Whether the GPUs can be trusted, asked of NVIDIA's driver on its own thread: a broken GPU can hang it.

Two kinds of faults. Heat and a driver that is silent pass: `complaint` tells while they last. All others last
until the process ends and put it into quarantine (`quarantine`): Xids except those of applications, new
uncorrected ECC errors, a GPU or an NVLink that is lost, too few GPUs, GPUs that do not reach each other.
Services then tell it in three ways: not ready; SERVING_STATE_QUARANTINED with the reason as `message` in
WatchStatus (from which the gateway makes a Kubernetes event); the metric `cascade_quarantined`. The process
stays, for diagnosis, and asks its sessions to move.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import structlog
from prometheus_client import CollectorRegistry, Gauge

from cascade.v1 import common_pb2
from services.common.gpu import PASSING, Fault, Gpu, Kind, as_text
from services.common.interconnect import Interconnect, check_interconnect
from services.common.settings import GpuSettings
from services.common.visible_gpus import visible_gpus

log = structlog.get_logger(__name__)

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Errors of a program, which a healthy GPU reports too."""
MAX_GPUS = 16
LOOK_S = 0.1
"""How often the event loop looks at what the thread has found."""


class GpuWatch:
    """The latest state of this process's GPUs; empty where there is no driver."""

    def __init__(
        self,
        settings: GpuSettings,
        *,
        num_ranks: int | None = None,
        interconnect: Interconnect = "none",
        nvml: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_ranks`: the GPUs that are needed, and watched; None: all that are visible. `interconnect`:
        what each pair of them must have. `nvml` None: the driver of this machine."""
        self._settings = settings
        self._num_ranks = num_ranks
        self._interconnect = interconnect
        self._nvml = nvml or driver()
        self._clock = clock
        self._gpus: list[Gpu] = []
        self._latest: list[common_pb2.Accelerator] = []
        self._answered_at: float | None = None
        """None: not started, or no driver."""
        self._fault: Fault | None = None
        """Not of one GPU, but of all."""
        self._logged: str | None = None
        self._checked = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        self._answered_at = self._clock()
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it is a daemon, so one that hangs keeps nobody."""
        self._stopping.set()

    def export(self, registry: CollectorRegistry) -> None:
        """Tell quarantine by class of reason, as Prometheus asks."""
        gauge = Gauge(
            "cascade_quarantined",
            "1 while hardware faults of this class keep sessions away, for good.",
            ("reason_class",),
            registry=registry,
        )
        for kind in get_args(Kind):
            if kind != PASSING:
                gauge.labels(kind).set_function(partial(self._has, kind))

    def accelerators(self) -> list[common_pb2.Accelerator]:
        """As last measured, with the faults that are known now."""
        return [with_fault(info, gpu.fault) for info, gpu in zip(self._latest, self._gpus, strict=False)]

    def quarantine(self) -> str | None:
        """Why they cannot be trusted again before the process has ended, if so."""
        return "; ".join(text for fault, text in self._faults() if fault.lasts) or None

    def complaint(self) -> str | None:
        """Why the GPUs cannot be trusted now, if so; whatever lasts comes first."""
        if lasting := self.quarantine():
            return lasting
        silent_s = self._clock() - self._answered_at if self._answered_at is not None else 0.0
        if silent_s > self._settings.gpu_deadline_s:
            return f"the GPU driver has not answered for {silent_s:.0f} s"
        return "; ".join(text for _, text in self._faults()) or None

    async def checked(self) -> None:
        """Until the preflight is over, or the driver has been silent for too long."""
        while not self._checked.is_set() and self.complaint() is None:  # noqa: ASYNC110 (a thread's)
            await asyncio.sleep(LOOK_S)

    async def quarantined(self) -> str:
        """Until it is; returns why."""
        while (reason := self.quarantine()) is None:  # noqa: ASYNC110 (a thread finds out)
            await asyncio.sleep(LOOK_S)
        return reason

    def _faults(self) -> Iterator[tuple[Fault, str]]:
        if self._fault:
            yield self._fault, self._fault.text
        for gpu in self._gpus:
            if fault := gpu.fault:
                yield fault, f"GPU {gpu.index}: {fault.text}"

    def _has(self, kind: Kind) -> bool:
        return any(fault.kind == kind for fault, _ in self._faults())

    def _run(self) -> None:
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            self._leave(str(error))
            return
        try:
            self._watch()
        except self._nvml.NVMLError as error:
            log.error("GPUs cannot be watched any more", reason=str(error))
            self._fault = Fault("lost", f"the GPU driver: {error}")
        finally:
            self._checked.set()
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _leave(self, reason: str) -> None:
        """There is nothing to watch."""
        log.info("no GPUs to watch", reason=reason)
        self._answered_at = None
        self._checked.set()

    def _watch(self) -> None:
        events = self._nvml.nvmlEventSetCreate()
        try:
            handles = visible_gpus(self._nvml)[: self._num_ranks or MAX_GPUS]
            if not handles:
                self._leave("none is visible to this process")
                return
            limit = self._settings.max_gpu_celsius
            gpus = [Gpu(self._nvml, index, one, events, limit) for index, one in enumerate(handles)]
            self._check(gpus)
            while not self._stopping.is_set():
                self._read(gpus)
                self._checked.set()
                self._await_event(events, gpus)
        finally:
            self._nvml.nvmlEventSetFree(events)

    def _check(self, gpus: list[Gpu]) -> None:
        """The preflight."""
        if self._num_ranks and len(gpus) < self._num_ranks:
            text = f"{self._num_ranks} ranks need as many GPUs, {len(gpus)} are visible"
            self._fault = Fault("count", text)
        check_interconnect(self._nvml, gpus, self._interconnect)

    def _read(self, gpus: list[Gpu]) -> None:
        self._latest = [gpu.read() for gpu in gpus]
        self._gpus = gpus
        self._answered_at = self._clock()
        self._log_quarantine()

    def _log_quarantine(self) -> None:
        if (reason := self.quarantine()) != self._logged:
            log.error("quarantined", reason=reason)
            self._logged = reason

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
        if xid not in APPLICATION_XIDS:
            self._note_xid(xid, event.device, gpus)
            self._log_quarantine()

    def _note_xid(self, xid: int, handle: Any, gpus: list[Gpu]) -> None:
        try:
            uuid = as_text(self._nvml.nvmlDeviceGetUUID(handle))
        except self._nvml.NVMLError:  # it fell off the bus, and cannot even be named
            self._fault = self._fault or Fault("xid", f"Xid {xid} of a GPU that does not answer")
            return
        for gpu in gpus:
            if gpu.uuid == uuid:
                gpu.note(Fault("xid", f"Xid {xid}"))


def with_fault(info: common_pb2.Accelerator, fault: Fault | None) -> common_pb2.Accelerator:
    """A copy that tells the fault."""
    told = common_pb2.Accelerator(fault=fault.text[:256] if fault else "")
    told.MergeFrom(info)
    return told


def driver() -> Any:
    """NVIDIA's bindings, which only services on GPUs have installed."""
    import pynvml  # type: ignore[import-untyped]

    return pynvml
