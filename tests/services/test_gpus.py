"""The health of GPUs against a driver that plays every fault. Where there is a GPU, against the real one."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from services.common.gpus import GpuWatch
from services.common.settings import GpuSettings
from tests.services.test_health import Clock

WAIT_S = 20.0


class FakeNvml:
    """The part of pynvml that is used, with two GPUs of four links, the real one's constants and errors."""

    def __init__(self) -> None:
        self.celsius = 50
        self.ecc = 3
        self.links = {0: {0, 1, 2, 3}, 1: {0, 1}}
        self.events: list[tuple[int, int]] = []
        self.unsupported: set[str] = set()
        self.lost = False
        self.hang = threading.Event()
        self.hang.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def _answer(self, name: str) -> None:
        assert self.hang.wait(WAIT_S)
        if name in self.unsupported:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlInit(self) -> None:
        self._answer("init")

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA H100"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(used=10, total=80)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._answer("temperature")
        return self.celsius if handle == 1 else 50

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:
        self._answer("ecc")
        assert kind == pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        return self.ecc if handle == 1 else 0

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:
        self._answer("links")
        if link > 3:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return int(link in self.links[handle])

    def nvmlEventSetCreate(self) -> Any:
        return object()

    def nvmlEventSetFree(self, events: Any) -> None:
        pass

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: Any) -> None:
        self._answer("events")
        assert kinds == pynvml.nvmlEventTypeXidCriticalError

    def nvmlEventSetWait_v2(self, events: Any, timeout_ms: int) -> Any:
        self._answer("events")
        if self.events:
            gpu, xid = self.events.pop(0)
            return SimpleNamespace(device=gpu, eventData=xid)
        time.sleep(timeout_ms / 1000)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)


def gpu_settings(interval_s: float, deadline_s: float, max_celsius: int) -> GpuSettings:
    return GpuSettings(
        gpu_check_interval_s=interval_s, gpu_deadline_s=deadline_s, max_gpu_celsius=max_celsius
    )


@pytest.fixture
def nvml() -> FakeNvml:
    return FakeNvml()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(nvml: FakeNvml, clock: Clock) -> Iterator[GpuWatch]:
    watch = GpuWatch(gpu_settings(0.01, 5, 90), nvml, clock)
    yield watch
    watch.stop()
    nvml.hang.set()
    if watch._thread.ident:
        watch._thread.join(WAIT_S)
    assert not watch._thread.is_alive()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_healthy(watch: GpuWatch) -> None:
    watch.start()
    until(watch.accelerators, "the GPUs are read")
    first, second = watch.accelerators()
    assert (first.index, first.product, second.uuid) == (0, "NVIDIA H100", "GPU-1")
    assert (second.memory_used_bytes, second.memory_total_bytes, second.temperature_celsius) == (10, 80, 50)
    assert watch.complaint() is None, "ECC errors of before the start do not count"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"celsius": 91}, "91 degrees Celsius"),
        ({"ecc": 5}, "2 uncorrected ECC errors"),
        ({"links": {0: {0, 1, 2, 3}, 1: {0}}}, "NVLink down: 1"),
        ({"events": [(1, 79)]}, "Xid 79"),
    ],
)
def test_faults(watch: GpuWatch, nvml: FakeNvml, change: dict[str, Any], fault: str) -> None:
    watch.start()
    until(watch.accelerators, "the GPUs are read")
    vars(nvml).update(change)
    until(watch.complaint, "the fault is seen")
    assert watch.complaint() == f"GPU 1: {fault}"
    assert [gpu.fault for gpu in watch.accelerators()] == ["", fault]


def test_heat_passes_and_an_xid_stays(watch: GpuWatch, nvml: FakeNvml) -> None:
    watch.start()
    until(watch.accelerators, "the GPUs are read")
    nvml.celsius = 99
    until(watch.complaint, "it is hot")
    nvml.celsius = 60
    until(lambda: watch.complaint() is None, "it has cooled")
    nvml.events.append((0, 48))
    until(watch.complaint, "the Xid is seen")
    nvml.events.append((0, 13))
    until(lambda: not nvml.events, "the other is seen")
    assert watch.complaint() == "GPU 0: Xid 48"


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 109])
def test_errors_of_an_application_do_not_count(watch: GpuWatch, nvml: FakeNvml, xid: int) -> None:
    nvml.events += [(0, xid), (0, xid)]
    watch.start()
    until(lambda: not nvml.events, "they are seen")
    read = watch.accelerators()
    until(lambda: watch.accelerators() is not read, "the GPUs are read again")
    assert watch.complaint() is None


def test_what_a_gpu_cannot_tell_is_no_fault(watch: GpuWatch, nvml: FakeNvml) -> None:
    nvml.unsupported = {"temperature", "ecc", "links", "events"}
    watch.start()
    until(watch.accelerators, "the GPUs are read")
    read = watch.accelerators()
    until(lambda: watch.accelerators() is not read, "it goes on without events")
    assert watch.complaint() is None


def test_a_driver_that_hangs(watch: GpuWatch, nvml: FakeNvml, clock: Clock) -> None:
    watch.start()
    until(watch.accelerators, "the GPUs are read")
    nvml.hang.clear()
    time.sleep(0.05)
    clock.now = 6
    until(watch.complaint, "silence is noticed")
    assert watch.complaint() == "the GPU driver has not answered for 6 s"
    nvml.hang.set()
    until(lambda: watch.complaint() is None, "it answers again")


def test_a_gpu_that_is_lost(watch: GpuWatch, nvml: FakeNvml) -> None:
    watch.start()
    until(watch.accelerators, "the GPUs are read")
    nvml.lost = True
    until(watch.complaint, "the loss is seen")
    assert watch.complaint() == "the GPU driver: GPU is lost"


def test_without_a_driver(watch: GpuWatch, nvml: FakeNvml) -> None:
    nvml.unsupported = {"init"}
    watch.start()
    watch._thread.join(WAIT_S)
    assert watch.accelerators() == []
    assert watch.complaint() is None


def test_the_real_driver() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA driver: {error}")
    watch = GpuWatch(gpu_settings(0.1, WAIT_S, 110))
    watch.start()
    try:
        until(watch.accelerators, "the GPUs are read")
        assert len(watch.accelerators()) == min(pynvml.nvmlDeviceGetCount(), 16)
        assert all(gpu.memory_total_bytes for gpu in watch.accelerators())
    finally:
        watch.stop()
        watch._thread.join(WAIT_S)
