"""What the gateway tells the cluster: the real scaler, its KEDA service, its gauges, and deletion costs.

Simulated: the gRPC channel of KEDA, the scrape's HTTP, and the API server, which takes a while to answer.
"""

import asyncio
from typing import Any, cast

from benchmarks.day.gateway import Gateway
from benchmarks.day.replica_set import ReplicaSet
from benchmarks.day.virtual_time import now
from cascade_core.config import make
from externalscaler import externalscaler_pb2 as pb
from services.gateway.base.settings import KubernetesSettings, ScalerSettings
from services.gateway.kubernetes.api import Api
from services.gateway.kubernetes.chores import Chores
from services.gateway.kubernetes.clock import Clock
from services.gateway.kubernetes.deletion_cost import ANNOTATION, DeletionCosts
from services.gateway.kubernetes.scaling.component import Component, Sizes
from services.gateway.kubernetes.scaling.gauges import ScalerCollector
from services.gateway.kubernetes.scaling.pods import Pods
from services.gateway.kubernetes.scaling.scaler import Scaler
from services.gateway.kubernetes.scaling.servicer import METRICS, ScalerServicer
from services.gateway.peers.endpoints import Pod

REFERENCE = pb.ScaledObjectRef(name="stage", namespace="day", scalerMetadata={"component": "stage"})
API_S = 0.1
"""One call to the API server."""


class GatewayScaler:
    """Of the stages, as controllers.Scaler."""

    def __init__(self, gateway: Gateway, **settings: Any) -> None:
        """`settings`: fields of ScalerSettings."""
        section = make(ScalerSettings, settings)
        stages = Component(
            "stage",
            Pods(gateway.stages, gateway.admission.ledger("stage"), section.replace_after_s, now),
            Sizes(section.warm_stage_sessions, section.assumed_stage_sessions, section.crowd_factor),
            section.scale_down_after_s,
            section.hpa_tolerance,
            now,
        )
        self._scaler = Scaler(section, gateway.admission, [stages], clock=now)
        self._servicer = ScalerServicer(self._scaler)
        self._collector = ScalerCollector(self._scaler)

    async def start(self) -> None:
        await self._scaler.start()

    async def close(self) -> None:
        await self._scaler.close()

    async def get_metric(self) -> float:
        request = pb.GetMetricsRequest(scaledObjectRef=REFERENCE, metricName=METRICS["stage"])
        response = await self._servicer.GetMetrics(request, None)
        return response.metricValues[0].metricValueFloat

    async def is_active(self) -> bool:
        return (await self._servicer.IsActive(REFERENCE, None)).result

    def scrape(self) -> float | None:
        samples = [sample for metric in self._collector.collect() for sample in metric.samples]
        return next((sample.value for sample in samples if sample.name == "cascade_desired_pods"), None)


class VirtualClock(Clock):
    """Of the running loop."""

    def now(self) -> float:
        return now()


class SimulatedApi:
    """The API server, as far as deletion costs need it."""

    def __init__(self, replica_set: ReplicaSet) -> None:
        self._replica_set = replica_set
        self.num_calls = 0

    async def get_annotation(self, pod: Pod, name: str) -> str | None:
        found = await self._find(pod, name)
        return str(found.deletion_cost) if found and found.deletion_cost else None

    async def set_annotation(self, pod: Pod, name: str, value: str | None) -> None:
        if found := await self._find(pod, name):
            found.deletion_cost = int(value or 0)

    async def _find(self, pod: Pod, name: str) -> Any:
        assert name == ANNOTATION
        self.num_calls += 1
        await asyncio.sleep(API_S)
        return next((found for found in self._replica_set.alive if found.name == pod.uid), None)


class Costs:
    """The gateway's deletion costs at work."""

    def __init__(self, gateway: Gateway, replica_set: ReplicaSet) -> None:
        clock = VirtualClock()
        self._chores = Chores("deletion costs", clock)
        self.api = SimulatedApi(replica_set)
        api = cast(Api, self.api)
        costs = DeletionCosts(api, self._chores, clock, make(KubernetesSettings, {}).idle_after_s)
        costs.follow(gateway.stages)
        self._task = asyncio.create_task(self._chores.run())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
