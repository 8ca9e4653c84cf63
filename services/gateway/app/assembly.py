"""Puts a gateway together."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import structlog

from cascade.v1 import operator_pb2_grpc, session_pb2, session_pb2_grpc
from cascade.v1.decoder_pb2 import DecoderStatus
from cascade.v1.stage_pb2 import StageStatus
from cascade_core.errors import InvalidConfig
from externalscaler import externalscaler_pb2_grpc
from services.common import server as scaffold
from services.common.addresses import is_everywhere, join
from services.common.resume_tokens import ResumeTokens
from services.common.server import Server, Service
from services.common.telemetry import Telemetry
from services.gateway.api.connect import validate_but_commands
from services.gateway.api.forward import Forwarder
from services.gateway.api.rates import Rates
from services.gateway.app import operator_servicer
from services.gateway.app.overview import Overview
from services.gateway.app.session_servicer import SessionServicer
from services.gateway.base.quotas import Quotas
from services.gateway.base.settings import Settings
from services.gateway.journal import Journal, MemoryJournal, RedisStore, ReplicatedJournal, connect_by
from services.gateway.kubernetes.scaling.assembly import make_scaler
from services.gateway.kubernetes.scaling.gauges import ScalerCollector
from services.gateway.kubernetes.scaling.scaler import Scaler
from services.gateway.kubernetes.scaling.servicer import METHODS, ScalerServicer
from services.gateway.kubernetes.scaling.servicer import NAME as SCALER_NAME
from services.gateway.peers.endpoints import Endpoints, StaticEndpoints
from services.gateway.peers.peer_metrics import PeerCollector
from services.gateway.peers.pool import Pool
from services.gateway.placement.admission import Admission
from services.gateway.session.collector import RegistryCollector
from services.gateway.session.metrics import GatewayMetrics
from services.gateway.session.registry import Registry
from services.gateway.session.shared import Shared
from services.gateway.session.traces import BlockTraces
from services.web.server import InnerHttpServer, serving

if TYPE_CHECKING:
    from services.gateway.kubernetes.cluster import Cluster

log = structlog.get_logger(__name__)
NAME = session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name


@asynccontextmanager
async def assemble(settings: Settings, telemetry: Telemetry) -> AsyncIterator[tuple[Service, Registry]]:
    """A gateway that follows its peers, for as long as the block lasts."""
    section = settings.gateway
    cluster = make_cluster(settings, telemetry)
    stages: Pool[StageStatus] = Pool("stage", find_stages(settings, cluster), section, settings.peer)
    decoders: Pool[DecoderStatus] = Pool("decoder", find_decoders(settings, cluster), section, settings.peer)
    if section.redis_url and not section.advertise and is_everywhere(settings.grpc.host):
        raise InvalidConfig("gateway.advertise: needed with redis_url where grpc.host is every address")
    if section.redis_url and (why := what_keeps_gateways_apart(settings)):
        log.warning("other gateways cannot call this one; a single gateway needs nothing", why=why)
    address = section.advertise or join(settings.grpc.host, settings.grpc.port)
    journal = make_journal(settings)
    shared = Shared(
        settings=settings,
        owner=f"{address}/{uuid.uuid4().hex}",
        journal=journal,
        admission=Admission(section, stages, decoders),
        stages=stages,
        decoders=decoders,
        quotas=Quotas(section),
        tokens=ResumeTokens(section.token_key_file, section.token_ttl_s, journal.clock),
        metrics=GatewayMetrics(telemetry.registry),
        traces=BlockTraces(telemetry.tracer_provider),
    )
    registry, forwarder = Registry(shared), Forwarder(settings.peer)
    scaler = make_scaler(settings, shared.owner, shared.admission, stages, decoders)
    telemetry.registry.register(RegistryCollector(registry))
    telemetry.registry.register(ScalerCollector(scaler))
    telemetry.registry.register(PeerCollector(stages, decoders))
    try:
        await journal.start()
        if cluster:
            cluster.look_after(stages, decoders)
        await stages.start()
        await decoders.start()
        registry.start()
        await scaler.start()
        async with serving(settings.http, settings.tls, shared.tokens, telemetry.registry) as http:
            yield describe(shared, registry, forwarder, scaler, http), registry
    finally:
        await scaler.close()
        await registry.close()
        await forwarder.close()
        shared.admission.close()
        await stages.close()
        await decoders.close()
        if cluster:
            await cluster.close()
        await shared.journal.close()


def what_keeps_gateways_apart(settings: Settings) -> str:
    """Why gateways that all have these settings cannot call each other; empty: they can."""
    listens, calls = bool(settings.tls.certificate), settings.peer.tls
    if listens != calls:
        on = {True: "on", False: "off"}
        return f"TLS is {on[listens]} at its port (tls.certificate), and {on[calls]} for calls (peer.tls)"
    if settings.tls.ca and not settings.peer.certificate:
        return "its port asks for client certificates (tls.ca), and calls bring none (peer.certificate)"
    return ""


@dataclass(frozen=True)
class Gateway(Service):
    """A Service with an HTTP side."""

    http: InnerHttpServer | None = None
    """None: it has none."""


def describe(
    shared: Shared, registry: Registry, forwarder: Forwarder, scaler: Scaler, http: InnerHttpServer | None
) -> Service:
    """What the scaffold serves."""
    rates = Rates(shared.quotas)
    servicer = SessionServicer(shared, registry, forwarder, rates)
    operator = operator_servicer.OperatorServicer(shared.settings, Overview(shared, registry), rates)

    def register(server: grpc.aio.Server) -> None:
        session_pb2_grpc.add_SessionServiceServicer_to_server(servicer, server)
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(operator, server)
        externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(ScalerServicer(scaler), server)

    async def drain(deadline_s: float) -> None:
        if http:
            http.leave()
        forwarder.leave()
        try:
            await registry.drain(deadline_s)
        finally:
            scaler.leave()

    return Gateway(
        (NAME, operator_servicer.NAME, SCALER_NAME),
        register,
        drain=drain,
        open_while_draining=(*METHODS, *operator_servicer.METHODS),
        open_without_credentials=(f"/{NAME}/Connect", *(METHODS if shared.settings.scaler.open else ())),
        inner_address=f"unix:{http.socket}" if http else "",
        validate=validate_but_commands,
        http=http,
    )


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Server, Registry]]:
    """A started gateway for as long as the block lasts; for tests and for several in one process."""
    registries: list[Registry] = []

    @asynccontextmanager
    async def build(telemetry: Telemetry) -> AsyncIterator[Service]:
        async with assemble(settings, telemetry) as (service, registry):
            registries.append(registry)
            yield service

    async with scaffold.running(settings, "gateway", build) as server:
        yield server, registries[0]


async def serve(settings: Settings) -> None:
    """Run a gateway until SIGTERM has been answered in full."""

    @asynccontextmanager
    async def build(telemetry: Telemetry) -> AsyncIterator[Service]:
        async with assemble(settings, telemetry) as (service, _):
            yield service

    await scaffold.serve(settings, "gateway", build)


def make_cluster(settings: Settings, telemetry: Telemetry) -> "Cluster | None":
    """None where no Service is followed. Raises InvalidConfig."""
    if not settings.kubernetes.is_used:
        return None
    from services.gateway.kubernetes.cluster import (
        Cluster,  # its client takes 64 MB, which others need not spend
    )

    return Cluster(settings.kubernetes, telemetry.registry)


def find_stages(settings: Settings, cluster: "Cluster | None") -> Endpoints:
    """From the cluster, or from the list in the settings."""
    service = settings.kubernetes.stage_service
    return (
        cluster.endpoints("stage", service)
        if cluster and service
        else StaticEndpoints(settings.gateway.stages)
    )


def find_decoders(settings: Settings, cluster: "Cluster | None") -> Endpoints:
    """As `find_stages`."""
    service, addresses = settings.kubernetes.decoder_service, settings.gateway.decoders
    return cluster.endpoints("decoder", service) if cluster and service else StaticEndpoints(addresses)


def make_journal(settings: Settings) -> Journal:
    """In memory, or with a copy in Redis."""
    section = settings.gateway
    if section.redis_url is None:
        return MemoryJournal(max_total_bytes=section.journal_bytes)
    store = RedisStore(connect_by(section), section.redis_prefix)
    return ReplicatedJournal(
        store, max_total_bytes=section.journal_bytes, takeover_grace_s=2 * section.lease_s
    )
