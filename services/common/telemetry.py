"""Logs of a process (`configure_logging`), metrics and traces of a server (`start_telemetry`)."""

import asyncio
import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import trace
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from cascade_core.errors import InvalidConfig
from services.common.addresses import join
from services.common.listening import listen
from services.common.metrics_server import MetricsServer
from services.common.settings import TelemetrySettings
from services.common.shortened import shortened

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger(__name__)
FLUSH_DEADLINE_S = 3.0


@dataclass
class Telemetry:
    """What a process reports through; `stop` sends the last spans."""

    registry: CollectorRegistry
    tracer_provider: "TracerProvider | None"
    metrics_servers: Sequence[MetricsServer]
    """One for each address that the host has."""

    @property
    def metrics_port(self) -> int | None:
        return self.metrics_servers[0].server_port if self.metrics_servers else None

    async def stop(self) -> None:
        """Off the event loop and bounded: a collector that does not answer must not keep the process."""
        thread = threading.Thread(target=self._stop, name="telemetry", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, FLUSH_DEADLINE_S)
        if thread.is_alive():
            log.warning("telemetry did not end in time; the last spans may be lost")

    def _stop(self) -> None:
        for server in self.metrics_servers:
            server.stop()
        if self.tracer_provider:
            self.tracer_provider.shutdown()


def start_telemetry(settings: TelemetrySettings, service: str) -> Telemetry:
    """Metrics and traces of one server; `service` is its name in traces, such as `stage`."""
    registry = make_registry()
    return Telemetry(registry, start_tracing(settings, service), start_metrics(settings, registry))


def configure_logging(settings: TelemetrySettings, service: str) -> None:
    """One line per event on stderr, structlog's and the standard library's alike."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_trace,
        lambda _, __, event: {"service": service, **event},
    ]
    is_json = settings.log_format == "json"
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    tail: list[Any] = [shorten_values, console]
    if is_json:  # tracebacks as text, without the values of variables, which may be secret
        tail = [structlog.processors.format_exc_info, shorten_values, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove, *tail])
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())


def shorten_values(_: Any, __: str, event: Any) -> Any:
    return {key: shortened(value) if isinstance(value, str) else value for key, value in event.items()}


def add_trace(_: Any, __: str, event: Any) -> Any:
    """Which trace a line belongs to."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def make_registry() -> CollectorRegistry:
    """One of our own, so that two servers in one process do not share counters."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def start_metrics(settings: TelemetrySettings, registry: CollectorRegistry) -> Sequence[MetricsServer]:
    """`/metrics` on threads of its own."""
    if settings.metrics_port is None:
        return ()
    try:
        listeners = listen(settings.metrics_host, settings.metrics_port)
    except OSError as error:
        address = join(settings.metrics_host, settings.metrics_port)
        raise InvalidConfig(f"telemetry.metrics_port: cannot listen on {address}: {error}") from None
    servers = [MetricsServer(listener, registry) for listener in listeners]
    for server in servers:
        server.start()
    log.info("metrics", host=settings.metrics_host, port=servers[0].server_port)
    return servers


def start_tracing(settings: TelemetrySettings, service: str) -> "TracerProvider | None":
    """None without a collector: spans are then no-ops, and what sends them is not imported."""
    if settings.otlp_endpoint is None:
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"cascade-{service}"}),
        sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)),
        shutdown_on_exit=False,
    )
    is_plain = settings.otlp_endpoint.startswith("http://")
    exporter = OTLPSpanExporter(settings.otlp_endpoint, insecure=is_plain, timeout=FLUSH_DEADLINE_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
