"""What the gateway has to do with Kubernetes, put together."""

import asyncio
import socket
from typing import Any

from prometheus_client import CollectorRegistry

from services.gateway.base.settings import KubernetesSettings
from services.gateway.kubernetes.access import Access
from services.gateway.kubernetes.api import Api
from services.gateway.kubernetes.chores import Chores
from services.gateway.kubernetes.clock import Clock
from services.gateway.kubernetes.deletion_cost import DeletionCosts
from services.gateway.kubernetes.metrics import ClusterMetrics
from services.gateway.kubernetes.quarantine import QuarantineEvents
from services.gateway.kubernetes.slice_watch import SliceWatch
from services.gateway.peers.endpoints import Endpoints
from services.gateway.peers.pool import Pool


class Cluster:
    """The cluster that this gateway runs in. Nothing else waits for it."""

    def __init__(
        self, settings: KubernetesSettings, registry: CollectorRegistry, clock: Clock | None = None
    ) -> None:
        """Raises InvalidConfig."""
        self._settings = settings
        self._clock = clock or Clock()
        self._api = Api(Access.of(settings), ClusterMetrics(registry), settings.request_timeout_s)
        self._tasks: list[asyncio.Task[None]] = []

    def endpoints(self, kind: str, service: str) -> Endpoints:
        """The servers behind a Service."""
        return SliceWatch(self._api, kind, service, self._settings, self._clock)

    def look_after(self, *pools: Pool[Any]) -> None:
        """Write deletion costs and events of their pods, where the settings say so."""
        if self._settings.deletion_cost:
            chores = self._begin("deletion costs")
            costs = DeletionCosts(self._api, chores, self._clock, self._settings.idle_after_s)
            for pool in pools:
                costs.follow(pool)
        if self._settings.events:
            events = QuarantineEvents(self._api, self._begin("events"), self._clock, socket.gethostname())
            for pool in pools:
                events.follow(pool)

    def _begin(self, name: str) -> Chores:
        chores = Chores(name, self._clock)
        self._tasks.append(asyncio.create_task(chores.run(), name=name))
        return chores

    async def close(self) -> None:
        """Make no more calls."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._api.close()
