"""The serving state of a process and the faults of its GPUs as metrics, looked up when Prometheus asks."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cascade.v1 import common_pb2

PREFIX = "SERVING_STATE_"
STATES = tuple(name for name, _ in common_pb2.ServingState.items() if not name.endswith("UNSPECIFIED"))


def state_word(name: str) -> str:
    """As label values are written: `SERVING_STATE_READY` is `ready`."""
    return name.removeprefix(PREFIX).lower()


class StateCollector(Collector):
    """One series per state, 1 for the present one: the set is the same at each scrape, so that alerts on a
    state find a 0 and not a hole."""

    def __init__(self, name: str, read: Callable[[], "common_pb2.ServingState.ValueType"]) -> None:
        """`name`: of the metric, such as `cascade_stage_state`. `read` must return at once."""
        self._name = name
        self._read = read

    def collect(self) -> Iterable[Metric]:
        now = common_pb2.ServingState.Name(self._read())
        states = GaugeMetricFamily(self._name, "1: the state it is in now.", labels=["state"])
        for name in STATES:
            states.add_metric([state_word(name)], float(name == now))
        yield states


class GpuCollector(Collector):
    """The GPUs of this process; nothing where there is no driver."""

    def __init__(self, read: Callable[[], Sequence[common_pb2.Accelerator]]) -> None:
        """`read` must return at once."""
        self._read = read

    def collect(self) -> Iterable[Metric]:
        labels = ["gpu", "product"]
        faulty = GaugeMetricFamily(
            "cascade_gpu_faulty", "1: the GPU has a fault, which WatchStatus names.", labels=labels
        )
        celsius = GaugeMetricFamily("cascade_gpu_temperature_celsius", "Of the GPU.", labels=labels)
        for gpu in self._read():
            faulty.add_metric([str(gpu.index), gpu.product], float(bool(gpu.fault)))
            celsius.add_metric([str(gpu.index), gpu.product], gpu.temperature_celsius)
        yield faulty
        yield celsius
