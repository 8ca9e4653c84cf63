"""KEDA's ExternalScaler: one metric per component, the number of pods that there should be, with target 1.

No answer waits for anything: each tells the last number made. What is asked for comes in the trigger's
metadata, where KEDA also puts its own, so what is unknown there is ignored.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from externalscaler import externalscaler_pb2 as pb
from externalscaler import externalscaler_pb2_grpc
from services.common.errors import NotReady, Overloaded
from services.common.validation import InvalidField
from services.gateway.kubernetes.scaling.scaler import Scaler
from services.gateway.peers.reports import Kind

SERVICE = pb.DESCRIPTOR.services_by_name["ExternalScaler"]
NAME = SERVICE.full_name
METHODS = tuple(f"/{NAME}/{method.name}" for method in SERVICE.methods)
METRICS: dict[Kind, str] = {
    "stage": "cascade-desired-stage-pods",
    "decoder": "cascade-desired-decoder-pods",
}
COMPONENT = 'scalerMetadata["component"]'
MAX_STREAMS = 64
"""KEDA opens two per ScaledObject; callers need no credential."""


class ScalerServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    """Every gateway serves it, also while it drains."""

    def __init__(self, scaler: Scaler) -> None:
        self._scaler = scaler
        self._num_streams = 0

    async def IsActive(self, request: pb.ScaledObjectRef, context: Any) -> pb.IsActiveResponse:
        return pb.IsActiveResponse(result=self._desired(component_of(request)) > 0)

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: Any) -> pb.GetMetricSpecResponse:
        return spec_of(component_of(request))

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.GetMetricsResponse:
        kind = component_of(request.scaledObjectRef, "scaledObjectRef.")
        if request.metricName != METRICS[kind]:
            raise InvalidField([("metricName", f"must be {METRICS[kind]}")])
        desired = self._desired(kind)
        value = pb.MetricValue(metricName=METRICS[kind], metricValue=desired, metricValueFloat=desired)
        return pb.GetMetricsResponse(metricValues=[value])

    async def StreamIsActive(
        self, request: pb.ScaledObjectRef, context: Any
    ) -> AsyncIterator[pb.IsActiveResponse]:
        kind, told = component_of(request), None
        with self._streaming():
            while not self._scaler.is_leaving:
                desired = self._scaler.desired(kind)
                is_active = None if desired is None else desired > 0
                if is_active is None or is_active == told:
                    await self._scaler.changed()
                else:
                    told = is_active
                    yield pb.IsActiveResponse(result=is_active)

    async def StreamMetricSpec(
        self, request: pb.ScaledObjectRef, context: Any
    ) -> AsyncIterator[pb.GetMetricSpecResponse]:
        kind = component_of(request)
        with self._streaming():
            yield spec_of(kind)
            while not self._scaler.is_leaving:
                await self._scaler.changed()

    def _desired(self, kind: Kind) -> int:
        """Raises NotReady."""
        desired = self._scaler.desired(kind)
        if desired is None:
            raise NotReady(f"this gateway does not know all {kind} pods yet, so any number would be wrong")
        return desired

    @contextmanager
    def _streaming(self) -> Iterator[None]:
        """Raises Overloaded."""
        if self._num_streams >= MAX_STREAMS:
            raise Overloaded(f"{MAX_STREAMS} streams of scalers are open, which is all this gateway takes")
        self._num_streams += 1
        try:
            yield
        finally:
            self._num_streams -= 1


def component_of(reference: pb.ScaledObjectRef, path: str = "") -> Kind:
    """What the trigger scales. `path`: where the reference stands. Raises InvalidField."""
    named = reference.scalerMetadata.get("component", "")
    for kind in METRICS:
        if named == kind:
            return kind
    raise InvalidField([(path + COMPONENT, f"must be one of {', '.join(METRICS)}")])


def spec_of(kind: Kind) -> pb.GetMetricSpecResponse:
    """The metric counts pods, so one pod makes 1 of it."""
    spec = pb.MetricSpec(metricName=METRICS[kind], targetSize=1, targetSizeFloat=1.0)
    return pb.GetMetricSpecResponse(metricSpecs=[spec])
