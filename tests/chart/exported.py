"""What the services really export: series and their labels, from registries that the services filled."""

import asyncio
import functools
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from services.common.server import running
from services.decoder import service as decoder
from services.decoder.settings import DecoderSettings as DecoderSection
from services.decoder.settings import Settings as DecoderSettings
from services.gateway.app import assembly as gateway
from services.gateway.base.settings import KubernetesSettings
from services.gateway.base.settings import Settings as GatewaySettings
from services.stage import service as stage
from services.stage.settings import Settings as StageSettings
from services.stage.settings import StageSettings as StageSection

SUFFIXES = {
    "counter": ("_total", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "gauge": ("",),
    "info": ("_info",),
}
NOBODY = "http://127.0.0.1:9"
"""An API server that does not answer: what is counted is the same."""


@dataclass
class Series:
    """One name and what it is told apart by."""

    labels: set[str]
    bounds: set[str] = field(default_factory=set)
    """`le` of a histogram."""


@functools.cache
def exported() -> Mapping[str, Series]:
    """By series name, of all three services together."""
    return asyncio.run(collect())


async def collect() -> dict[str, Series]:
    found: dict[str, Series] = {}
    cluster = KubernetesSettings(stage_service="s", decoder_service="d", namespace="n", api_url=NOBODY)
    on_cpu = [
        at_any_port(StageSettings(stage=StageSection(device="cpu"))),
        at_any_port(DecoderSettings(decoder=DecoderSection(device="cpu"))),
    ]
    async with AsyncExitStack() as stack:
        for name, module, settings in zip(("stage", "decoder"), (stage, decoder), on_cpu, strict=True):
            server = await stack.enter_async_context(running(settings, name, partial(module.build, settings)))
            add(found, server.telemetry.registry)
        settings = at_any_port(GatewaySettings(kubernetes=cluster))
        server, _ = await stack.enter_async_context(gateway.running(settings))
        add(found, server.telemetry.registry)
    return found


def at_any_port(settings: Any) -> Any:
    return replace(settings, grpc=replace(settings.grpc, port=0))


def add(found: dict[str, Series], registry: Any) -> None:
    for collector in list(registry._collector_to_names):
        own = getattr(collector, "_labelnames", ())
        for family in collector.collect():
            labels = {*own, *getattr(family, "_labelnames", ())}
            bounds = set()
            for sample in family.samples:
                labels |= sample.labels.keys() - {"le"}
                bounds |= {sample.labels["le"]} if "le" in sample.labels else set()
            for suffix in SUFFIXES[family.type]:
                series = found.setdefault(family.name + suffix, Series(set()))
                series.labels |= labels
                series.bounds |= bounds


def words(names: Iterable[str], prefix: str) -> set[str]:
    """Enum names as label values."""
    return {name.removeprefix(prefix).lower() for name in names}
