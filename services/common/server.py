"""Builds and runs the gRPC server of a service, from start to drained.

    @asynccontextmanager
    async def build(telemetry: Telemetry) -> AsyncIterator[Service]:
        stage = Stage(settings, telemetry.registry)
        async with stage.running():
            yield Service((NAME,), register, drain=drain)

    asyncio.run(serve(settings, "stage", build))

SIGTERM: health NOT_SERVING, notice, nothing new taken, the service's own drain (announced in-band), a grace
for calls, exit. A second signal hurries. Every wait in it has a deadline.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.auth import Authenticator, make_authenticator
from services.common.grpc_port import GrpcPort, Options
from services.common.health import Condition, HealthMonitor
from services.common.interceptors import (
    AuthInterceptor,
    CallMetrics,
    Chain,
    DeadlineInterceptor,
    ErrorInterceptor,
    Gate,
    Interceptor,
    LimitInterceptor,
    LineInterceptor,
    LogInterceptor,
    MetricsInterceptor,
    TracingInterceptor,
    ValidationInterceptor,
    Validator,
)
from services.common.lines import Lines
from services.common.race import race
from services.common.settings import ServerSettings
from services.common.telemetry import Telemetry, configure_logging, start_telemetry
from services.common.validation import validate

log = structlog.get_logger(__name__)
HEALTH_HEADROOM = 64
"""Calls beyond max_concurrent_rpcs that gRPC itself lets in, so that health answers and refusals explain."""
STOP_MARGIN_S = 2.0
"""What gRPC may take after a grace to end the cancelled calls."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def nothing_to_drain(deadline_s: float) -> None:
    """For services without sessions of their own."""


async def nothing_to_do() -> None:
    """For services that are complete once they are built."""


@dataclass(frozen=True)
class Service:
    """What one process serves."""

    grpc_names: Sequence[str]
    """Full names of its gRPC services, for health and reflection."""
    register: Callable[[grpc.aio.Server], None]
    """Adds the servicers."""
    conditions: Sequence[Condition] = ()
    """Why it cannot serve now, if so; `Heartbeat.complaint` is one."""
    drain: Callable[[float], Awaitable[None]] = nothing_to_drain
    """Tells its sessions to go, and returns when they are gone; given the seconds it has."""
    work: Callable[[], Awaitable[None]] = nothing_to_do
    """Done by `serve` beside the serving, such as loading a model; cancelled at the end. What it raises makes
    the server leave, and is raised by `serve`."""
    open_while_draining: Collection[str] = ()
    """Methods answered to the end, such as `/cascade.v1.StageService/WatchStatus`."""
    open_without_credentials: Collection[str] = ()
    """Methods that a caller without any credential may enter, as `call.NOBODY`, to show one in a message."""
    inner_address: str = ""
    """Served beside the port, in plain text, for this process itself: `unix:/PATH`. Empty: none."""
    authenticator: Authenticator | None = None
    """None: what `AuthSettings` says."""
    validate: Validator = validate
    """Checks each inbound message of our own packages: by the rules beside the contracts' fields."""


Build: TypeAlias = Callable[[Telemetry], AbstractAsyncContextManager[Service]]
"""Puts a service together, and takes it apart when its server has stopped."""


class Server:
    """A running server; `serve` is what a process calls."""

    def __init__(self, settings: ServerSettings, service: Service, telemetry: Telemetry) -> None:
        self.settings = settings
        self.service = service
        self.telemetry = telemetry
        self._gate = Gate(service.open_while_draining)
        self._health = HealthMonitor(settings.health, service.grpc_names, service.conditions)
        self._leaving = asyncio.Event()
        self._hurried = asyncio.Event()
        self._lines = Lines(settings.grpc)
        self._interceptors = self._make_interceptors(telemetry)
        self._port = GrpcPort(settings, self._lines, self._make_server, service.inner_address)
        self._monitor: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """0 until it listens."""
        return self._port.number

    def _make_interceptors(self, telemetry: Telemetry) -> list[Interceptor]:
        limits = self.settings.grpc
        return [
            TracingInterceptor(telemetry.tracer_provider),
            LogInterceptor(),
            MetricsInterceptor(CallMetrics(telemetry.registry)),
            ErrorInterceptor(),
            LineInterceptor(self._lines),
            AuthInterceptor(self._authenticator(), self.service.open_without_credentials),
            LimitInterceptor(self._gate, limits.max_concurrent_rpcs),
            DeadlineInterceptor(limits.default_deadline_s, limits.max_deadline_s),
            ValidationInterceptor(self.service.validate),
        ]

    def _authenticator(self) -> Authenticator:
        return self.service.authenticator or make_authenticator(self.settings.auth, self.settings.tls)

    async def start(self) -> None:
        """Listen; NOT_SERVING until the conditions allow more."""
        await self._health.start()
        await self._port.open()
        self._monitor = asyncio.create_task(self._health.run(), name="health")
        log.info("listening", host=self.settings.grpc.host, port=self.port)

    def _make_server(self, options: Options) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=[Chain(self._interceptors)],
            options=options,
            maximum_concurrent_rpcs=self.settings.grpc.max_concurrent_rpcs + HEALTH_HEADROOM,
        )
        self.service.register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        if self.settings.grpc.reflection:
            names = [*self.service.grpc_names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
        return server

    async def run(self) -> None:
        """Do the service's work and serve, until a signal, `leave` or a failure of that work, then drain.
        Raises what the work raised."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.leave)
        work = asyncio.create_task(self._work(), name="work")
        try:
            await self._leaving.wait()
            await self.close()
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
            work.cancel()
            await asyncio.wait({work})
        if not work.cancelled():
            work.result()

    async def _work(self) -> None:
        try:
            await self.service.work()
        except Exception:
            self._leaving.set()
            raise

    def leave(self) -> None:
        """Begin to drain; called again: hurry."""
        (self._hurried if self._leaving.is_set() else self._leaving).set()

    async def close(self) -> None:
        """Drain and stop, each step with its deadline."""
        times = self.settings.drain
        log.info("draining", deadline_s=times.deadline_s)
        await self._health.leave()
        await self._unless_hurried(asyncio.sleep(times.notice_s), times.notice_s + 1)
        self._gate.close()
        await self._unless_hurried(drain_safely(self.service, times.deadline_s), times.deadline_s)
        await self._unless_hurried(self._gate.idle.wait(), times.grace_s)
        try:
            await asyncio.wait_for(self._port.stop(times.hurry_s), times.hurry_s + STOP_MARGIN_S)
        except TimeoutError:
            log.error("calls did not end when cancelled; leaving them behind")
        if self._monitor:
            self._monitor.cancel()
        log.info("stopped")

    async def _unless_hurried(self, step: Coroutine[Any, Any, Any], deadline_s: float) -> None:
        """Run one step of the way out until it ends, its deadline passes, or somebody is in a hurry."""
        await race(step, self._hurried.wait(), asyncio.sleep(deadline_s), end_s=STOP_MARGIN_S)


async def drain_safely(service: Service, deadline_s: float) -> None:
    """A drain that fails must not keep the process from ending."""
    try:
        await service.drain(deadline_s)
    except Exception:
        log.exception("draining failed")


@asynccontextmanager
async def listening(settings: ServerSettings, name: str, build: Build) -> AsyncIterator[Server]:
    """A started server for as long as the block lasts, which has to run or close it."""
    telemetry = start_telemetry(settings.telemetry, name)
    try:
        async with build(telemetry) as service:
            server = Server(settings, service, telemetry)
            await server.start()
            yield server
    finally:
        await telemetry.stop()


@asynccontextmanager
async def running(settings: ServerSettings, name: str, build: Build) -> AsyncIterator[Server]:
    """As `listening`, closed at the end, its work not done; for tests and several servers in one process."""
    async with listening(settings, name, build) as server:
        try:
            yield server
        finally:
            await server.close()


async def serve(settings: ServerSettings, name: str, build: Build) -> None:
    """Run a service until SIGTERM has been answered in full; `name`: in logs and traces, such as `stage`.
    Raises what its work raised."""
    configure_logging(settings.telemetry, name)
    async with listening(settings, name, build) as server:
        await server.run()
