"""What the gateway counts of its talk with the API server."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class ClusterMetrics:
    """Once per registry, and only where the gateway follows a cluster."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "cascade_cluster_calls",
            "Calls to the Kubernetes API server; `result` is ok, an HTTP status, no_answer or malformed.",
            ("call", "result"),
            registry=registry,
        )
        self.connected = Gauge(
            "cascade_cluster_connected",
            "1 while the endpoints of this kind are followed; at 0 those known last stay in use.",
            ("kind",),
            registry=registry,
        )
