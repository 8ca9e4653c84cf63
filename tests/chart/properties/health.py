"""What the probes ask for is what the servers answer: the names are asked of real servers."""

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common import server as scaffold
from services.common.server import Service
from services.common.settings import GrpcSettings, ServerSettings
from services.common.telemetry import Telemetry
from services.decoder import service as decoder
from services.gateway.app import assembly as gateway
from services.stage import service as stage
from tests.chart.installation import Installation, everywhere
from tests.chart.rendering import Workload

SERVICES = {"stage": stage.NAME, "decoder": decoder.NAME, "gateway": gateway.NAME}
"""What each process gives as `Service.grpc_names`."""


@everywhere
def probes_ask_for_names_that_are_served(its: Installation, component: str) -> None:
    names = dict(asked(its.workload(component)))
    assert names["readinessProbe"] == names["startupProbe"] == SERVICES[component]
    assert names.get("livenessProbe") != names["readinessProbe"], "a draining pod is not to be killed"
    for name in names.values():
        assert is_served(SERVICES[component], name), name


def asked(workload: Workload) -> Iterator[tuple[str, str]]:
    """(probe, name of the health service it asks for)."""
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        check = workload.main.get(probe) or {}
        if "grpc" in check:
            yield probe, check["grpc"]["service"]
        elif "exec" in check:
            text = " ".join(check["exec"]["command"])
            found = re.search(r"--service[ =](\S+)", text)
            assert found, text
            yield probe, found[1]


@functools.cache
def is_served(service: str, name: str) -> bool:
    """Whether a real server of that service answers for the name."""
    return asyncio.run(ask(service, name)) == health_pb2.HealthCheckResponse.SERVING


async def ask(service: str, name: str) -> int:
    async with health_of(service) as health:
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        return answer.status


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
