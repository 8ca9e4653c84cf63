"""Stages and decoders as this gateway sees them, for Prometheus: what it cannot reach, it cannot use."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cascade.v1 import common_pb2
from services.common.state_metrics import STATES, state_word
from services.gateway.peers.pool import Pool

GONE = "gone"
"""Listed, and it does not report."""


class PeerCollector(Collector):
    """Counts by kind and state; each state is there at every scrape, so that `== 0` finds a number."""

    def __init__(self, *pools: Pool[Any]) -> None:
        self._pools = pools

    def collect(self) -> Iterable[Metric]:
        peers = GaugeMetricFamily(
            "cascade_peers", "Stages and decoders that are listed, by state.", labels=["kind", "state"]
        )
        for pool in self._pools:
            states = Counter(state_of(peer.status) for peer in list(pool.peers.values()))
            for state in (*map(state_word, STATES), GONE):
                peers.add_metric([pool.kind, state], states[state])
        yield peers


def state_of(status: Any) -> str:
    return state_word(common_pb2.ServingState.Name(status.state)) if status else GONE
