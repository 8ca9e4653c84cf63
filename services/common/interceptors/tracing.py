"""A server span per call, child of the caller's (W3C trace context). Without a collector it costs nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.common.call import Call
from services.common.interceptors.chain import Interceptor

PROPAGATOR = TraceContextTextMapPropagator()
FAULTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
"""Codes that are the server's doing."""


class TracingInterceptor(Interceptor):
    """Exceptions are not recorded on the span: their text may hold what users typed."""

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("cascade", tracer_provider=provider)

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        if call.is_health:
            yield
            return
        with self._tracer.start_as_current_span(
            call.method.lstrip("/"),
            context=PROPAGATOR.extract(call.metadata),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": call.service, "rpc.method": call.name},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                if call.code is not None:
                    span.set_attribute("rpc.grpc.status_code", call.code.value[0])
                    if call.code in FAULTS:
                        span.set_status(trace.StatusCode.ERROR, call.code.name)
