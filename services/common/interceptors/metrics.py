"""Calls counted under the names that gRPC dashboards know (go-grpc-middleware's)."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common.call import Call
from services.common.interceptors.chain import Interceptor

LABELS = ("grpc_type", "grpc_service", "grpc_method")
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class CallMetrics:
    """The metrics themselves, once per registry. Only methods that exist become labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        ended = (*LABELS, "grpc_code")
        self.started = Counter("grpc_server_started", "Calls begun.", LABELS, registry=registry)
        self.handled = Counter("grpc_server_handled", "Calls ended.", ended, registry=registry)
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Duration of calls with one answer; a stream lasts as long as its session.",
            LABELS,
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge("grpc_server_in_flight", "Calls open now.", LABELS, registry=registry)


class MetricsInterceptor(Interceptor):
    """Sees `call.code` because the error mapping is inside of it."""

    def __init__(self, metrics: CallMetrics) -> None:
        self._metrics = metrics

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        labels = (call.kind, call.service, call.name)
        self._metrics.started.labels(*labels).inc()
        started = time.monotonic()
        with self._metrics.in_flight.labels(*labels).track_inprogress():
            try:
                yield
            finally:
                code = call.code.name if call.code else "UNKNOWN"
                self._metrics.handled.labels(*labels, code).inc()
                if not call.is_stream:
                    self._metrics.seconds.labels(*labels).observe(time.monotonic() - started)
