"""The numbers of the scaler for Prometheus, and so for an HPA without KEDA: every gateway shows the same."""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.gateway.kubernetes.scaling.scaler import Scaler


class ScalerCollector(Collector):
    """A number that is not known yet is left out: 0 would be an order to delete all pods."""

    def __init__(self, scaler: Scaler) -> None:
        self._scaler = scaler

    def collect(self) -> Iterable[Metric]:
        waiting = self._scaler.waiting
        pods = GaugeMetricFamily("cascade_desired_pods", "Pods that there should be.", labels=["component"])
        places = GaugeMetricFamily(
            "cascade_waiting_sessions",
            "Sessions of all gateways that need a place there and have none: queued, or recovering.",
            labels=["component"],
        )
        for kind, component in self._scaler.components.items():
            if component.desired is not None:
                pods.add_metric([kind], component.desired)
            places.add_metric([kind], waiting.waiting(kind))
        yield pods
        yield places
        for name, text, value in (
            ("cascade_queued_sessions", "Queued sessions of all gateways.", waiting.num_queued),
            (
                "cascade_scaler_silence_seconds",
                "Since the other gateways were heard of through Redis; 0 without Redis.",
                self._scaler.silence_s,
            ),
        ):
            yield GaugeMetricFamily(name, text, value=value)
