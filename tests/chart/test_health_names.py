"""What the probes ask for is what the servers answer: the names are asked of real servers."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common import server as scaffold
from services.common.server import Service
from services.common.settings import GrpcSettings, ServerSettings
from services.common.telemetry import Telemetry
from services.decoder import service as decoder
from services.gateway.app import assembly as gateway
from services.stage import service as stage
from tests.chart.cases import CASES, Case
from tests.chart.rendering import Rendering

SERVICES = {"stage": stage.NAME, "decoder": decoder.NAME, "gateway": gateway.NAME}
"""What each process gives as `Service.grpc_names`."""


def asked(rendering: Rendering, component: str) -> Iterator[tuple[str, str]]:
    """(probe, name of the health service it asks for)."""
    main = rendering.workload(component).main
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        check = main.get(probe) or {}
        if "grpc" in check:
            yield probe, check["grpc"]["service"]
        elif "exec" in check:
            text = " ".join(check["exec"]["command"])
            found = re.search(r"--service[ =](\S+)", text)
            assert found, text
            yield probe, found[1]


@pytest.mark.parametrize("component", SERVICES)
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_probes_ask_for_names_that_are_served(case: Case, component: str) -> None:
    names = dict(asked(case.render(), component))
    assert names["readinessProbe"] == names["startupProbe"] == SERVICES[component]
    assert names.get("livenessProbe") != names["readinessProbe"], "a draining pod is not to be killed"
    async with health_of(SERVICES[component]) as health:
        for name in names.values():
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@asynccontextmanager
async def health_of(name: str) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    """The scaffold of every service, serving under that name."""

    @asynccontextmanager
    async def build(telemetry: Telemetry) -> AsyncIterator[Service]:
        yield Service((name,), lambda server: None)

    settings = ServerSettings(grpc=GrpcSettings(port=0))
    async with (
        scaffold.running(settings, "probed", build) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=60):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
        yield stub
