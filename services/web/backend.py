"""The way from an HTTP request to the services of the gateway."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from starlette.requests import HTTPConnection

from services.common.auth import AUTHORIZATION
from services.common.call import CERTIFICATE, REQUEST_ID, WORD
from services.common.resume_tokens import ResumeTokens
from services.web.certificates import CERTIFICATE_NAME
from services.web.crowd import Crowd
from services.web.gateways import SERVICE, OwnGateway, RemoteGateway
from services.web.settings import HttpSettings
from services.web.webrtc.loop import RtcThread, UdpLoop

RESUME_HEADER, RESUME_PARAMETER = "x-resume-token", "resume_token"
TRACE = ("traceparent", "tracestate")
PRINTABLE = re.compile(r"[\x20-\x7e]*")
"""What gRPC takes as metadata."""
READY_DEADLINE_S = 2.0


@dataclass(frozen=True)
class Credentials:
    """What a request brought along to be let in by."""

    metadata: Sequence[tuple[str, str | bytes]]
    """For every call made for it."""
    resume_token: str
    """For `attach`; empty: none."""


class Backend:
    """Calls to the gateway; made inside a running loop."""

    def __init__(
        self, settings: HttpSettings, tokens: ResumeTokens | None, gateway: OwnGateway | RemoteGateway
    ) -> None:
        """`tokens`: with the gateway's key; None: the gateway has to be asked about each token."""
        self.settings = settings
        self.tokens = tokens
        self.gateway = gateway
        self.crowd = Crowd(settings)
        self._rtc = RtcThread(
            lambda: UdpLoop(settings.webrtc_host or "", settings.webrtc_first_port, settings.webrtc_last_port)
        )
        self.leaving = asyncio.Event()
        """Set when the gateway, or this process, begins to go away."""

    def rtc(self) -> RtcThread:
        """Where WebRTC runs; it starts when it is needed."""
        return self._rtc

    def credentials(self, connection: HTTPConnection) -> Credentials:
        """Of a request or a WebSocket."""
        headers = connection.headers
        pairs: list[tuple[str, str | bytes]] = [(REQUEST_ID, request_id_of(connection))]
        if name := connection.scope["state"].get(CERTIFICATE_NAME):
            pairs.append((CERTIFICATE, name.encode()))
        names = (AUTHORIZATION, *TRACE)
        found = [(name, headers[name]) for name in names if name in headers]
        pairs += [(name, value) for name, value in found if PRINTABLE.fullmatch(value)]
        token = headers.get(RESUME_HEADER) or connection.query_params.get(RESUME_PARAMETER, "")
        return Credentials(pairs, token)

    async def unary(self, method: str, request: Message, credentials: Credentials) -> Any:
        """The answer. Raises AioRpcError."""
        call = self.gateway.stubs().unary[method]
        return await call(request, metadata=self._metadata(credentials), timeout=self.settings.call_timeout_s)

    def connect(self, credentials: Credentials) -> Any:
        """A stream of Connect: nothing is sent before the first write. Cancel it when it is not needed."""
        return self.gateway.stubs().session.Connect(metadata=self._metadata(credentials))

    def _metadata(self, credentials: Credentials) -> Sequence[tuple[str, str | bytes]]:
        return (*credentials.metadata, *self.gateway.metadata)

    async def is_ready(self) -> bool:
        """As the gateway's health service says of SessionService, until we leave."""
        asked = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
        try:
            answer = await self.gateway.stubs().health.Check(asked, timeout=READY_DEADLINE_S)
        except grpc.aio.AioRpcError:
            return False
        return not self.leaving.is_set() and bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        await self.gateway.close()
        await asyncio.to_thread(self._rtc.close)


def request_id_of(connection: HTTPConnection) -> str:
    """The caller's, if it is harmless, or a new one; the same for the whole request."""
    state = connection.scope.setdefault("state", {})
    if REQUEST_ID not in state:
        given = connection.headers.get(REQUEST_ID, "")
        state[REQUEST_ID] = given if WORD.fullmatch(given) else uuid4().hex
    return str(state[REQUEST_ID])
