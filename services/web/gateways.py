"""The gateway that is called: the one of this process over a Unix socket, or another over TCP."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from cascade.v1 import operator_pb2, operator_pb2_grpc, session_pb2, session_pb2_grpc
from services.common.call import ON_BEHALF
from services.common.channel import ChannelFactory
from services.common.settings import GrpcSettings
from services.web.settings import WebSettings

SERVICE = session_pb2.DESCRIPTOR.services_by_name["SessionService"]
OPERATOR_SERVICE = operator_pb2.DESCRIPTOR.services_by_name["OperatorService"]
OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
UNBOUNDED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""The server has the bounds; it is this process."""
OLD_S = 3600.0
"""How long streams go on over a channel that another has replaced."""


class Stubs:
    """What can be called over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.session: Any = session_pb2_grpc.SessionServiceStub(channel)
        operator: Any = operator_pb2_grpc.OperatorServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)
        stubs = ((self.session, SERVICE), (operator, OPERATOR_SERVICE))
        self.unary = {
            method: getattr(stub, method) for stub, service in stubs for method in service.methods_by_name
        }
        """By name: no two services have a method of the same name."""


class OwnGateway:
    """In this process, so it believes us about the certificate that a client has shown."""

    knows_certificates = True
    metadata: Sequence[tuple[str, str]] = ()
    """Of each call."""

    def __init__(self, socket: Path) -> None:
        """`socket`: where its server listens for us."""
        self._stubs = Stubs(grpc.aio.insecure_channel(f"unix:{socket}", [*OPTIONS, *UNBOUNDED]))

    def stubs(self) -> Stubs:
        return self._stubs

    async def close(self) -> None:
        await self._stubs.channel.close()


class RemoteGateway:
    """In another process. Our certificate is no client's, and clients' certificates are no credential there:
    it would have to believe a network about them."""

    knows_certificates = False
    metadata: Sequence[tuple[str, str]] = ((ON_BEHALF, "http"),)

    def __init__(self, settings: WebSettings) -> None:
        """Raises InvalidConfig."""
        self._target = settings.gateway
        self._channels = ChannelFactory(GrpcSettings(), settings if settings.tls else None, OPTIONS)
        self._credentials = self._channels.credentials
        self._stubs = Stubs(self._channels.open(self._target))
        self._closing: set[asyncio.Task[None]] = set()

    def stubs(self) -> Stubs:
        """Over another channel once the files of TLS have changed; streams go on over the one before."""
        if (credentials := self._channels.credentials) is not self._credentials:
            task = asyncio.create_task(self._stubs.channel.close(OLD_S), name="old channel")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._credentials = credentials
            self._stubs = Stubs(self._channels.open(self._target))
        return self._stubs

    async def close(self) -> None:
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._stubs.channel.close()
