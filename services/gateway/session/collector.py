"""What Prometheus is told of the sessions of the moment."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cascade.v1 import session_pb2
from services.gateway.session.registry import Registry


class RegistryCollector(Collector):
    """Numbers of the moment, looked up when Prometheus asks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        shared, sessions = self._registry.shared, list(self._registry.sessions)
        states = GaugeMetricFamily("cascade_sessions", "Sessions of this gateway.", labels=["state"])
        counts = Counter(session_pb2.SessionState.Name(live.state) for live in sessions)
        for name in {"SESSION_STATE_ACTIVE", *counts}:
            states.add_metric([name.removeprefix("SESSION_STATE_").lower()], counts[name])
        yield states
        behind = shared.journal.behind()
        for name, text, value in (
            ("cascade_queue_length", "Sessions that wait for a place.", shared.admission.queue_length),
            ("cascade_viewers", "Streams of viewers.", sum(live.num_viewers for live in sessions)),
            ("cascade_controllers", "Streams of controllers.", len([s for s in sessions if s.controller])),
            ("cascade_journal_behind_writes", "Changes that the journal's store lacks.", behind.num_writes),
            ("cascade_journal_behind_seconds", "Age of the oldest of them.", behind.seconds),
            (
                "cascade_journal_may_evict",
                "1: the journal's store drops sessions when its memory is full.",
                shared.journal.may_evict,
            ),
        ):
            yield GaugeMetricFamily(name, text, value=value)
