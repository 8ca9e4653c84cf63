"""The health of GPUs against a driver that plays every fault. Where there is a GPU, against the real one."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from prometheus_client import CollectorRegistry

from services.common.gpus import GpuWatch
from services.common.settings import GpuSettings
from services.common.visible_gpus import visible_gpus
from tests.services.common.test_health import Clock

WAIT_S = 20.0


class FakeNvml:
    """The part of pynvml that is used, with GPUs of four links, the real one's constants and errors."""

    def __init__(self, num_gpus: int = 2) -> None:
        self.num_gpus = num_gpus
        self.celsius = 50
        self.ecc = 3
        self.links = {0: {0, 1, 2, 3}} | {gpu: {0, 1} for gpu in range(1, num_gpus)}
        self.unconnected: dict[int, set[tuple[int, int]]] = {}
        """By ability (NVML_P2P_CAPS_INDEX_...): pairs of GPUs that lack it."""
        self.events: list[tuple[int, int]] = []
        self.unsupported: set[str] = set()
        self.lost: set[int] = set()
        self.is_nameless = False
        """GPUs that are lost do not even tell their id."""
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
        return self.num_gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        assert 0 <= index < self.num_gpus
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if not uuid.startswith("MIG-of-"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> int:
        return int(handle.removeprefix("MIG-of-"))

    def nvmlDeviceGetP2PStatus(self, one: int, other: int, ability: int) -> int:
        self._answer("p2p")
        lacks = (one, other) in self.unconnected.get(ability, set())
        return int(pynvml.NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED if lacks else pynvml.NVML_P2P_STATUS_OK)

    def nvmlDeviceGetTopologyCommonAncestor(self, one: int, other: int) -> int:
        self._answer("topology")
        return int(pynvml.NVML_TOPOLOGY_SYSTEM)

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA H100"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        if self.is_nameless and handle in self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if handle in self.lost:
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


@contextmanager
def watching(nvml: FakeNvml, clock: Clock, **needs: Any) -> Iterator[GpuWatch]:
    """A watch that was not started, and ends with the block."""
    watch = GpuWatch(gpu_settings(0.01, 5, 90), nvml=nvml, clock=clock, **needs)
    try:
        yield watch
    finally:
        watch.stop()
        nvml.hang.set()
        if watch._thread.ident:
            watch._thread.join(WAIT_S)
        assert not watch._thread.is_alive()


@pytest.fixture
def watch(nvml: FakeNvml, clock: Clock) -> Iterator[GpuWatch]:
    with watching(nvml, clock) as watch:
        yield watch


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
    read = watch._latest
    until(lambda: watch._latest is not read, "the GPUs are read again")
    assert watch.complaint() is None


def test_what_a_gpu_cannot_tell_is_no_fault(watch: GpuWatch, nvml: FakeNvml) -> None:
    nvml.unsupported = {"temperature", "ecc", "links", "events"}
    watch.start()
    until(watch.accelerators, "the GPUs are read")
    read = watch._latest
    until(lambda: watch._latest is not read, "it goes on without events")
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


def test_a_driver_that_hangs_from_the_first(watch: GpuWatch, nvml: FakeNvml, clock: Clock) -> None:
    nvml.hang.clear()
    watch.start()
    assert watch.complaint() is None
    clock.now = 6
    assert watch.complaint() == "the GPU driver has not answered for 6 s"
    asyncio.run(asyncio.wait_for(watch.checked(), WAIT_S))


def test_a_gpu_that_is_lost(watch: GpuWatch, nvml: FakeNvml) -> None:
    watch.start()
    until(watch.accelerators, "the GPUs are read")
    nvml.lost = {1}
    until(watch.complaint, "the loss is seen")
    assert watch.quarantine() == "GPU 1: GPU is lost"
    read = watch._latest
    until(lambda: watch._latest is not read, "the other is still watched")
    assert [gpu.memory_total_bytes for gpu in watch.accelerators()] == [80, 0]


def test_an_xid_of_a_gpu_that_cannot_be_named(watch: GpuWatch, nvml: FakeNvml) -> None:
    watch.start()
    until(watch.accelerators, "the GPUs are read")
    nvml.is_nameless, nvml.lost = True, {1}
    nvml.events.append((1, 79))
    until(lambda: watch._fault, "the Xid is seen")
    assert "Xid 79 of a GPU that does not answer" in (watch.quarantine() or "")


class TestQuarantine:
    """What lasts, and how it is told."""

    @pytest.mark.parametrize(
        ("change", "repair", "kind"),
        [
            ({"ecc": 5}, {"ecc": 3}, "ecc"),
            ({"links": {0: {0, 1, 2, 3}, 1: set()}}, {"links": {0: {0, 1, 2, 3}, 1: {0, 1}}}, "nvlink"),
            ({"events": [(1, 79)]}, {}, "xid"),
            ({"lost": {1}}, {"lost": set()}, "lost"),
        ],
    )
    def test_it_lasts(
        self, watch: GpuWatch, nvml: FakeNvml, change: dict[str, Any], repair: dict[str, Any], kind: str
    ) -> None:
        registry = CollectorRegistry()
        watch.export(registry)
        watch.start()
        until(watch.accelerators, "the GPUs are read")
        assert quarantined(registry) == set()
        vars(nvml).update(change)
        until(watch.quarantine, "the fault is seen")
        vars(nvml).update(repair)
        read = watch._latest
        until(lambda: watch._latest is not read, "the GPUs are read again")
        assert watch.quarantine() == watch.complaint()
        assert watch.quarantine()
        assert quarantined(registry) == {kind}
        assert watch.accelerators()[1].fault

    def test_heat_is_none(self, watch: GpuWatch, nvml: FakeNvml) -> None:
        registry = CollectorRegistry()
        watch.export(registry)
        watch.start()
        nvml.celsius = 99
        until(watch.complaint, "it is hot")
        assert watch.quarantine() is None
        assert quarantined(registry) == set()

    async def test_who_waits_for_it_hears(self, watch: GpuWatch, nvml: FakeNvml) -> None:
        watch.start()
        waiting = asyncio.create_task(watch.quarantined())
        await asyncio.wait_for(watch.checked(), WAIT_S)
        assert not waiting.done()
        nvml.events.append((0, 79))
        assert await asyncio.wait_for(waiting, WAIT_S) == "GPU 0: Xid 79"


READ, WRITE = pynvml.NVML_P2P_CAPS_INDEX_READ, pynvml.NVML_P2P_CAPS_INDEX_WRITE
NVLINK = pynvml.NVML_P2P_CAPS_INDEX_NVLINK


class TestPreflight:
    """Before a model is loaded."""

    async def faults(self, nvml: FakeNvml, clock: Clock, **needs: Any) -> list[str]:
        """Of each GPU, as soon as it is over."""
        with watching(nvml, clock, **needs) as watch:
            watch.start()
            await asyncio.wait_for(watch.checked(), WAIT_S)
            assert (watch.quarantine() is None) == (not any(gpu.fault for gpu in watch.accelerators()))
            return [gpu.fault for gpu in watch.accelerators()]

    @pytest.mark.parametrize("need", ["none", "p2p", "nvlink"])
    async def test_gpus_that_reach_each_other(self, clock: Clock, need: str) -> None:
        assert await self.faults(FakeNvml(5), clock, num_ranks=5, interconnect=need) == [""] * 5

    @pytest.mark.parametrize(
        ("need", "ability", "fails"),
        [
            ("none", READ, False),
            ("p2p", READ, True),
            ("p2p", WRITE, True),
            ("p2p", NVLINK, False),
            ("nvlink", NVLINK, True),
        ],
    )
    async def test_a_gpu_apart(self, clock: Clock, need: str, ability: int, fails: bool) -> None:
        nvml = FakeNvml(5)
        nvml.unconnected = {ability: {pair for pair in combinations(range(5), 2) if 3 in pair}}
        faults = await self.faults(nvml, clock, num_ranks=5, interconnect=need)
        if not fails:
            assert faults == [""] * 5
            return
        name = "NVLink" if need == "nvlink" else "P2P"
        why = "(chipset not supported)"
        assert [faults[0], faults[4]] == [f"no {name} to GPU 3 {why}"] * 2
        assert faults[3] == f"no {name} to GPU 0 {why}, 1 {why}, 2 {why}, 4 {why}"

    async def test_two_gpus_are_a_pair(self, clock: Clock) -> None:
        nvml = FakeNvml(2)
        nvml.unconnected = {READ: {(0, 1)}}
        faults = await self.faults(nvml, clock, num_ranks=2, interconnect="p2p")
        assert faults == [f"no P2P to GPU {other} (chipset not supported)" for other in (1, 0)]

    async def test_gpus_that_no_rank_uses_do_not_count(self, clock: Clock) -> None:
        nvml = FakeNvml(3)
        nvml.unconnected = {READ: {(0, 2), (1, 2)}}
        assert await self.faults(nvml, clock, num_ranks=2, interconnect="p2p") == ["", ""]

    async def test_a_driver_that_cannot_tell(self, clock: Clock) -> None:
        nvml = FakeNvml(2)
        nvml.unsupported = {"p2p", "topology"}
        assert await self.faults(nvml, clock, num_ranks=2, interconnect="nvlink") == ["", ""]

    async def test_too_few_gpus(self, clock: Clock) -> None:
        registry = CollectorRegistry()
        with watching(FakeNvml(4), clock, num_ranks=5, interconnect="p2p") as watch:
            watch.export(registry)
            watch.start()
            await asyncio.wait_for(watch.checked(), WAIT_S)
            assert watch.quarantine() == "5 ranks need as many GPUs, 4 are visible"
        assert quarantined(registry) == {"count"}

    async def test_no_gpu_at_all_is_a_cpu_machine(self, clock: Clock) -> None:
        with watching(FakeNvml(0), clock, num_ranks=5) as watch:
            watch.start()
            await asyncio.wait_for(watch.checked(), WAIT_S)
            clock.now = 100
            assert watch.complaint() is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("GPU-3,GPU-1", [3, 1]),
        ("0,7,1", [0]),
        ("0,GPU-9,1", [0]),
        ("-1", []),
        ("", []),
        ("MIG-of-2,1", [2, 1]),
        ("MIG-unknown,1", []),
    ],
)
def test_which_gpus_are_visible(value: str | None, found: list[int]) -> None:
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert visible_gpus(FakeNvml(4), environment) == found


def quarantined(registry: CollectorRegistry) -> set[str]:
    """The classes that the metric shows."""
    (family,) = [metric for metric in registry.collect() if metric.name == "cascade_quarantined"]
    assert len(family.samples) == 6
    return {sample.labels["reason_class"] for sample in family.samples if sample.value}


def test_without_a_driver(watch: GpuWatch, nvml: FakeNvml) -> None:
    nvml.unsupported = {"init"}
    watch.start()
    watch._thread.join(WAIT_S)
    assert watch.accelerators() == []
    assert watch.complaint() is None


def test_the_real_driver() -> None:
    count = real_gpus()
    watch = GpuWatch(gpu_settings(0.1, WAIT_S, 110))
    watch.start()
    try:
        until(watch.accelerators, "the GPUs are read")
        assert len(watch.accelerators()) == min(count, 16)
        assert all(gpu.memory_total_bytes for gpu in watch.accelerators())
    finally:
        watch.stop()
        watch._thread.join(WAIT_S)


async def test_the_real_preflight() -> None:
    """The driver answers every question that it is asked; what it answers is the machine's affair."""
    count = real_gpus()
    watch = GpuWatch(gpu_settings(0.1, WAIT_S, 110), num_ranks=count + 1, interconnect="p2p")
    watch.start()
    try:
        await asyncio.wait_for(watch.checked(), WAIT_S)
        assert f"{count + 1} ranks need as many GPUs, {count} are visible" in (watch.quarantine() or "")
        assert len(watch.accelerators()) == count
    finally:
        watch.stop()
        watch._thread.join(WAIT_S)


def real_gpus() -> int:
    """Their number; skips where there is none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA driver: {error}")
    return len(visible_gpus(pynvml))
