"""States and GPUs as series: one state at a time, every state always there."""

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cascade.v1 import common_pb2
from services.common.state_metrics import STATES, GpuCollector, StateCollector, state_word
from services.gateway.peers.peer_metrics import PeerCollector

WORDS = [state_word(name) for name in STATES]


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


@pytest.mark.parametrize("name", STATES)
def test_one_state_is_1_and_all_others_are_there(name: str) -> None:
    registry = CollectorRegistry()
    registry.register(StateCollector("x_state", lambda: common_pb2.ServingState.Value(name)))
    found = {word: value(registry, "x_state", state=word) for word in WORDS}
    assert found == {word: float(word == state_word(name)) for word in WORDS}


def test_gpus_come_with_the_driver() -> None:
    gpus: list[common_pb2.Accelerator] = []
    registry = CollectorRegistry()
    registry.register(GpuCollector(lambda: gpus))
    labels = {"gpu": "0", "product": "H100"}
    assert value(registry, "cascade_gpu_faulty", **labels) is None
    gpus.append(common_pb2.Accelerator(index=0, product="H100", temperature_celsius=61))
    assert value(registry, "cascade_gpu_faulty", **labels) == 0
    assert value(registry, "cascade_gpu_temperature_celsius", **labels) == 61
    gpus[0].fault = "Xid 79"
    assert value(registry, "cascade_gpu_faulty", **labels) == 1


def test_peers_are_counted_by_what_they_report() -> None:
    ready, silent = SimpleNamespace(status=SimpleNamespace(state=common_pb2.SERVING_STATE_READY)), None
    peers: dict[str, Any] = {"a": ready, "b": ready, "c": SimpleNamespace(status=silent)}
    stages, decoders = SimpleNamespace(kind="stage", peers=peers), SimpleNamespace(kind="decoder", peers={})
    registry = CollectorRegistry()
    registry.register(PeerCollector(stages, decoders))
    assert value(registry, "cascade_peers", kind="stage", state="ready") == 2
    assert value(registry, "cascade_peers", kind="stage", state="gone") == 1
    assert value(registry, "cascade_peers", kind="stage", state="draining") == 0
    assert value(registry, "cascade_peers", kind="decoder", state="ready") == 0, "a number, and not a hole"
