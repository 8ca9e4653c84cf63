"""What sets the replicas: KEDA with our external scaler, an HPA on our gauge, an HPA on utilisation, nobody.

Sources: keda.sh "Scaling Deployments", "External Scalers", "ScaledObject specification" and "FAQ": KEDA makes
an HPA with an External metric of target type AverageValue; each of its syncs asks the scaler through KEDA's
metrics server (GetMetrics); the polling interval serves the step between 0 and 1 replica (IsActive), which
KEDA makes itself, down only after the cooldown period. Prometheus scrapes at its interval, and its adapter
answers with the last sample.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from benchmarks.day.hpa import SYNC_S, Bounds, Hpa, average_value, utilization
from benchmarks.day.replica_set import ReplicaSet
from benchmarks.day.virtual_time import now
from services.common.errors import NotReady


class Scaler(Protocol):
    """What the gateway tells those who scale."""

    async def get_metric(self) -> float:
        """Pods, as KEDA's GetMetrics has it. Raises NotReady."""
        ...

    async def is_active(self) -> bool:
        """As KEDA's IsActive has it. Raises NotReady."""
        ...

    def scrape(self) -> float | None:
        """Pods, as Prometheus reads them; None: the series is not there."""
        ...


class Controller(Protocol):
    """Runs until it is cancelled."""

    async def run(self, replica_set: ReplicaSet, scaler: Scaler) -> None: ...


@dataclass(frozen=True)
class Keda:
    """`autoscaling.keda`."""

    bounds: Bounds
    """`least`: minReplicaCount, 0 allowed."""
    polling_s: float = 15.0
    cooldown_s: float = 300.0

    async def run(self, replica_set: ReplicaSet, scaler: Scaler) -> None:
        await asyncio.gather(
            sync_external(replica_set, self.bounds, scaler.get_metric), self._activate(replica_set, scaler)
        )

    async def _activate(self, replica_set: ReplicaSet, scaler: Scaler) -> None:
        active_s = now()
        while True:
            if await scaler.is_active():
                active_s = now()
                if replica_set.replicas == 0:
                    replica_set.scale(max(1, self.bounds.least))
            elif self.bounds.least == 0 and replica_set.replicas and now() - active_s >= self.cooldown_s:
                replica_set.scale(0)
            await asyncio.sleep(self.polling_s)


@dataclass(frozen=True)
class PrometheusHpa:
    """`autoscaling.hpa`: the gauge `cascade_desired_pods` by way of Prometheus and its adapter."""

    bounds: Bounds
    scrape_s: float = 15.0
    """`monitoring.serviceMonitor.interval`."""

    async def run(self, replica_set: ReplicaSet, scaler: Scaler) -> None:
        scraped: float | None = None

        async def scrape() -> None:
            nonlocal scraped
            while True:
                scraped = scaler.scrape()
                await asyncio.sleep(self.scrape_s)

        async def get_metric() -> float:
            if scraped is None:
                raise NotReady("no series of that name")
            return scraped

        await asyncio.gather(scrape(), sync_external(replica_set, self.bounds, get_metric))


@dataclass(frozen=True)
class UtilizationHpa:
    """What one would have without any of this: pods by the mean utilisation of those that are ready."""

    bounds: Bounds
    target: float = 0.7

    async def run(self, replica_set: ReplicaSet, scaler: Scaler) -> None:
        hpa = Hpa(self.bounds, now)
        while True:
            await asyncio.sleep(SYNC_S)
            active = replica_set.active
            loads = [len(pod.sessions) / pod.hardware.max_sessions for pod in active if pod.is_ready]
            wanted = utilization(loads, len(active) - len(loads), self.target, self.bounds)
            replica_set.scale(hpa.sync(replica_set.replicas, wanted))


@dataclass(frozen=True)
class Fixed:
    """So many, always."""

    replicas: int

    async def run(self, replica_set: ReplicaSet, scaler: Scaler) -> None:
        replica_set.scale(self.replicas)
        await asyncio.Event().wait()


async def sync_external(
    replica_set: ReplicaSet, bounds: Bounds, get_metric: Callable[[], Awaitable[float]]
) -> None:
    """An HPA on an External metric of 1 per pod. At 0 replicas it does nothing: that is KEDA's. Nor does it
    without a metric."""
    bounds = replace(bounds, least=max(1, bounds.least))
    hpa = Hpa(bounds, now)
    while True:
        await asyncio.sleep(SYNC_S)
        if not replica_set.replicas:
            continue
        try:
            wanted = average_value(await get_metric(), 1.0, max(1, len(replica_set.active)), bounds)
        except NotReady:
            continue
        replica_set.scale(hpa.sync(replica_set.replicas, wanted))
