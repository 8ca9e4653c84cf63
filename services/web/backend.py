"""The way from an HTTP request to the services of this gateway."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import HTTPConnection

from cascade.v1 import operator_pb2, operator_pb2_grpc, session_pb2, session_pb2_grpc
from services.common.auth import AUTHORIZATION
from services.common.call import CERTIFICATE, REQUEST_ID, WORD
from services.common.resume_tokens import ResumeTokens
from services.web.certificates import CERTIFICATE_NAME
from services.web.crowd import Crowd
from services.web.settings import HttpSettings

SERVICE = session_pb2.DESCRIPTOR.services_by_name["SessionService"]
OPERATOR_SERVICE = operator_pb2.DESCRIPTOR.services_by_name["OperatorService"]
RESUME_HEADER, RESUME_PARAMETER = "x-resume-token", "resume_token"
TRACE = ("traceparent", "tracestate")
PRINTABLE = re.compile(r"[\x20-\x7e]*")
"""What gRPC takes as metadata."""
READY_DEADLINE_S = 2.0
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""The server has the bounds; it is this process."""


@dataclass(frozen=True)
class Credentials:
    """What a request brought along to be let in by."""

    metadata: Sequence[tuple[str, str | bytes]]
    """For every call made for it."""
    resume_token: str
    """For `attach`; empty: none."""


class Backend:
    """Calls to the gateway's own server; made inside a running loop."""

    def __init__(self, settings: HttpSettings, tokens: ResumeTokens, socket: Path) -> None:
        """`socket`: where the server listens for us."""
        self.settings = settings
        self.tokens = tokens
        self.crowd = Crowd(settings)
        self.leaving = asyncio.Event()
        """Set when the gateway begins to go away."""
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", OPTIONS)
        self.stub: Any = session_pb2_grpc.SessionServiceStub(self._channel)
        operator: Any = operator_pb2_grpc.OperatorServiceStub(self._channel)
        stubs = ((self.stub, SERVICE), (operator, OPERATOR_SERVICE))
        self._calls = {
            method: getattr(stub, method) for stub, service in stubs for method in service.methods_by_name
        }
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

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
        """The answer; no two services have a method of the same name. Raises AioRpcError."""
        call = self._calls[method]
        return await call(request, metadata=credentials.metadata, timeout=self.settings.call_timeout_s)

    def connect(self, credentials: Credentials) -> Any:
        """A stream of Connect: nothing is sent before the first write. Cancel it when it is not needed."""
        return self.stub.Connect(metadata=credentials.metadata)

    async def is_ready(self) -> bool:
        """As the health service says of SessionService."""
        asked = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
        try:
            answer = await self._health.Check(asked, timeout=READY_DEADLINE_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        await self._channel.close()


def request_id_of(connection: HTTPConnection) -> str:
    """The caller's, if it is harmless, or a new one; the same for the whole request."""
    state = connection.scope.setdefault("state", {})
    if REQUEST_ID not in state:
        given = connection.headers.get(REQUEST_ID, "")
        state[REQUEST_ID] = given if WORD.fullmatch(given) else uuid4().hex
    return str(state[REQUEST_ID])
