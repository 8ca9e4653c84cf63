"""Gateways with a scaler, and KEDA beside each."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from cascade_core.config import make
from services.common.server import Server
from services.gateway.app.assembly import running
from services.gateway.base.settings import ScalerSettings
from services.gateway.session.registry import Registry
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import (
    Tenant,
    gateway_settings,
    open_channel,
    until_value,
    write_keys,
)
from tests.services.support.keda_client import Interface, KedaClient
from tests.services.support.redis_support import RedisServer

QUICK = {"interval_s": 0.1, "settle_s": 1000.0}


@dataclass
class Gateway:
    """As its clients, KEDA and Prometheus see it."""

    server: Server
    registry: Registry
    channel: grpc.aio.Channel
    tenant: Tenant
    stage: KedaClient
    decoder: KedaClient
    making: "asyncio.Task[None]"
    """Makes its numbers."""
    stack: AsyncExitStack

    def metric(self, name: str, **labels: str) -> float | None:
        return self.server.telemetry.registry.get_sample_value(name, labels)

    async def until_replicas(self, number: int) -> int:
        """Until KEDA would have so many stages."""
        return int(await until_value(self.replicas, lambda found: found == number))

    async def replicas(self) -> int | None:
        """None: not ready."""
        try:
            return await self.stage.replicas()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return None
            raise

    async def close(self) -> None:
        """As SIGTERM does it."""
        await self.stack.aclose()


class Town:
    """Makes gateways between the same machines."""

    def __init__(self, stack: AsyncExitStack, folder: Path, settings: Any) -> None:
        self._stack = stack
        self._settings = settings
        self._interface = Interface(folder)
        self.gateways: list[Gateway] = []

    async def add(self, **scaler: Any) -> Gateway:
        """One more; `scaler`: settings of its own."""
        own = await self._stack.enter_async_context(AsyncExitStack())
        section, before = replace(self._settings.scaler, **scaler), asyncio.all_tasks()
        server, registry = await own.enter_async_context(running(replace(self._settings, scaler=section)))
        (making,) = (task for task in asyncio.all_tasks() - before if task.get_name() == "scaler")
        channel = await own.enter_async_context(open_channel(server.port))
        has_keys = bool(self._settings.auth.keys_file)
        clients = [KedaClient(self._interface, channel, kind) for kind in ("stage", "decoder")]
        tenant = Tenant(channel, "acme" if has_keys else None)
        gateway = Gateway(server, registry, channel, tenant, *clients, making, own)
        self.gateways.append(gateway)
        return gateway


@asynccontextmanager
async def scaled(
    *,
    stages: Sequence[FakeStage | str] = (),
    decoders: Sequence[FakeDecoder] = (),
    redis: RedisServer | None = None,
    has_keys: bool = False,
    scaler: dict[str, Any] | None = None,
    **gateway: Any,
) -> AsyncIterator[Town]:
    """Machines, and gateways as a test adds them. A stage may be an address where nobody listens."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for machine in (*stages, *decoders):
            if not isinstance(machine, str):
                await stack.enter_async_context(machine)
        if redis:
            (folder / "token").write_bytes(bytes(range(32)))
            gateway |= {"redis_url": redis.url, "token_key_file": folder / "token", "lease_s": 1.0}
        if has_keys:
            write_keys(folder / "keys.toml", ["acme"])
        addresses = [
            [machine if isinstance(machine, str) else machine.address for machine in machines]
            for machines in (stages, decoders)
        ]
        keys_file = folder / "keys.toml" if has_keys else None
        settings = gateway_settings(*addresses, keys_file, **gateway)
        section = make(ScalerSettings, QUICK | (scaler or {}))
        yield Town(stack, folder, replace(settings, scaler=section))
