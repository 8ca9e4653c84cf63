"""OperatorService: who may look."""

from typing import Any

import grpc

from cascade.v1 import operator_pb2 as pb
from cascade.v1 import operator_pb2_grpc
from services.common.call import current_call
from services.common.errors import PermissionDenied
from services.gateway.api.rates import Rates
from services.gateway.app.overview import Overview
from services.gateway.base.settings import Settings

NAME = pb.DESCRIPTOR.services_by_name["OperatorService"].full_name
METHODS = (f"/{NAME}/GetOverview",)


class OperatorServicer(operator_pb2_grpc.OperatorServiceServicer):
    """Answers about this gateway; nothing is forwarded."""

    def __init__(self, settings: Settings, overview: Overview, rates: Rates) -> None:
        self._settings = settings
        self._overview = overview
        self._rates = rates

    async def GetOverview(
        self, request: pb.GetOverviewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetOverviewResponse:
        self._enter()
        return self._overview.read(request.max_sessions)

    def _enter(self) -> None:
        """Raises RateLimited and PermissionDenied."""
        tenant = current_call().principal.tenant
        self._rates.check(tenant)
        if self._settings.auth.modes and tenant not in self._settings.gateway.operator_tenants:
            raise PermissionDenied("the overview shows all tenants: it is for operators alone")
