"""The standard gRPC health check, by its two tiny messages: no package for it is needed."""

from typing import Any

import grpc

SERVICE_METHOD = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""HealthCheckResponse(status=SERVING)."""


async def is_serving(channel: grpc.aio.Channel, deadline_s: float) -> bool:
    """False also where somebody answers that it does not serve. Raises grpc.aio.AioRpcError."""
    check: Any = channel.unary_unary(SERVICE_METHOD)
    answer: bytes = await check(b"", timeout=deadline_s)
    return answer == SERVING
