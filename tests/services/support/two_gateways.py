"""Two gateways in this process that share a Redis, their clients, stages and decoders."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.common.server import Server
from services.gateway.app.assembly import running
from services.gateway.session.registry import Registry
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import (
    AttachedStream,
    Tenant,
    gateway_settings,
    open_channel,
    until,
    write_keys,
)
from tests.services.support.ports import free_port
from tests.services.support.redis_support import RedisServer

LEASE_S = 1.0


@dataclass
class Gateway:
    """One of two, as its clients see it."""

    server: Server
    registry: Registry
    acme: Tenant
    other: Tenant

    @property
    def is_recorded(self) -> bool:
        """Whether Redis has all that its sessions have written."""
        return not self.registry.shared.journal.behind().num_writes

    def num_recovered(self, cause: str) -> float:
        """Sessions that went on here after such a loss: maybe before their clients were back."""
        return self.recovered("count", cause)

    def recovered(self, what: str, cause: str) -> float:
        """`what`: count, or the gaps' sum in seconds."""
        labels = {"cause": cause.lower(), "recovery_class": "rebuilt"}
        registry = self.server.telemetry.registry
        return registry.get_sample_value(f"cascade_recovery_gap_seconds_{what}", labels) or 0.0

    async def kill(self) -> None:
        """As a process that dies: nothing is released, nobody is told."""
        self.registry.is_leaving = True
        await asyncio.gather(self.registry.close(), self.server._port.stop(0))
        journal: Any = self.registry.shared.journal
        pushes = [owned.pushing for owned in journal._owned.values()]
        for task in filter(None, [*pushes, journal._catching_up]):  # else it would keep its leases
            task.cancel()


@dataclass
class Pair:
    first: Gateway
    second: Gateway
    stages: list[FakeStage]
    decoders: list[FakeDecoder]

    @property
    def stage(self) -> FakeStage:
        return self.stages[0]


@asynccontextmanager
async def pair(
    redis: RedisServer,
    num_each: int = 1,
    capacity: int = 4,
    num_places: int = 0,
    loras: Mapping[str, str] | None = None,
    **gateway: Any,
) -> AsyncIterator[Pair]:
    """`num_each`: stages and decoders. `capacity`: places of each, of a stage `num_places` where given.
    `loras`: of the stages."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "token").write_bytes(bytes(range(32)))
        write_keys(folder / "keys.toml", ["acme", "other"])
        stages = [
            FakeStage(block_s=0.01, capacity=num_places or capacity, loras=loras) for _ in range(num_each)
        ]
        decoders = [FakeDecoder(capacity=capacity) for _ in range(num_each)]
        machines: list[Any] = [*stages, *decoders]
        for machine in machines:
            await stack.enter_async_context(machine)
        options = {"redis_url": redis.url, "token_key_file": folder / "token", "lease_s": LEASE_S} | gateway
        addresses = ([machine.address for machine in kind] for kind in (stages, decoders))
        settings = gateway_settings(*addresses, folder / "keys.toml", **options)
        gateways = []
        for _ in range(2):
            own = replace(settings, grpc=replace(settings.grpc, port=free_port()))
            server, registry = await stack.enter_async_context(running(own))
            channel = await stack.enter_async_context(open_channel(server.port))
            gateways.append(Gateway(server, registry, Tenant(channel, "acme"), Tenant(channel, "other")))
        await until(lambda: all(one.registry.shared.admission.has_stages for one in gateways))
        await until(lambda: all(machine.num_watchers == 2 for machine in machines))
        yield Pair(*gateways, stages, decoders)


def check_whole(number: int, *streams: AttachedStream) -> None:
    """Each block once, in order, over all of these streams."""
    sequences = [sequence for stream in streams for sequence in stream.sequences]
    assert sequences == list(range(1, number + 1))
    assert [mark.block for stream in streams for mark in stream.marks] == list(range(number))
    assert streams[-1].end_reason == "COMPLETE"
