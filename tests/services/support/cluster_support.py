"""What tests of the gateway's talk with Kubernetes share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from cascade_core.config import make
from services.gateway.base.settings import KubernetesSettings
from services.gateway.kubernetes.access import Access
from services.gateway.kubernetes.api import Api
from services.gateway.kubernetes.clock import Clock
from services.gateway.kubernetes.metrics import ClusterMetrics
from services.gateway.kubernetes.slice_watch import SliceWatch
from services.gateway.peers.endpoints import Endpoint, Endpoints
from tests.services.support.fake_api_server import NAMESPACE, FakeApiServer

WAIT_S = 30.0
"""Deadline of every wait; only a hang reaches it."""


def kubernetes_settings(url: str, **fields: Any) -> KubernetesSettings:
    """No account unless `account_dir` is given; no deadline that a busy machine would miss."""
    values = {
        "api_url": url,
        "namespace": NAMESPACE,
        "stage_service": "stage",
        "account_dir": Path("/nonexistent"),
        "request_timeout_s": WAIT_S,
        "watch_timeout_s": 300.0,
    }
    return make(KubernetesSettings, values | fields)


class Follower:
    """Takes each set that an Endpoints yields."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.sets: list[frozenset[Endpoint]] = []
        self.endpoints = endpoints
        self._news = asyncio.Event()

    @property
    def addresses(self) -> set[str]:
        """Of the newest set."""
        return {endpoint.address for endpoint in self.sets[-1]} if self.sets else set()

    def find(self, address: str) -> Endpoint:
        return next(endpoint for endpoint in self.sets[-1] if endpoint.address == address)

    async def run(self) -> None:
        async for endpoints in self.endpoints.watch():
            self.sets.append(endpoints)
            self._news.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Looked at with each set."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_at(self, *addresses: str) -> None:
        await self.until(lambda: self.sets and self.addresses == set(addresses))


@asynccontextmanager
async def calling(server: FakeApiServer, *, page: int = 500, **fields: Any) -> AsyncIterator[Api]:
    """A client of the server."""
    settings = kubernetes_settings(server.url, **fields)
    metrics = ClusterMetrics(CollectorRegistry())
    api = Api(Access.of(settings), metrics, settings.request_timeout_s, page)
    try:
        yield api
    finally:
        await api.close()


@asynccontextmanager
async def following(
    server: FakeApiServer, clock: Clock, *, page: int = 500, **fields: Any
) -> AsyncIterator[Follower]:
    """What a gateway knows of the stages."""
    async with calling(server, page=page, **fields) as api:
        watch = SliceWatch(api, "stage", "stage", kubernetes_settings(server.url, **fields), clock)
        follower = Follower(watch)
        running = asyncio.create_task(follower.run())
        try:
            yield follower
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
