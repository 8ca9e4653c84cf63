"""How much one client address may ask for: requests at once behind a proxy, and without a credential."""

from dataclasses import replace
from http import HTTPStatus

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.auth import AUTHORIZATION
from services.common.errors import Overloaded, RateLimited
from services.web.backend import RESUME_HEADER, RESUME_PARAMETER, Backend, request_id_of
from services.web.certificates import CERTIFICATE_NAME
from services.web.problems import Problem, problem_of
from services.web.websocket import CLOSE_CODES

PROBES = ("/healthz", "/readyz", "/metrics")
UNPROVEN = (400, 401, 408, 413, 415)
"""Answers to a wrong credential, and those that come before it is looked at: anybody can write a header."""


class Bounds:
    """Connections that come straight from their clients are counted by `uvicorn_private.py`."""

    def __init__(self, app: ASGIApp, backend: Backend) -> None:
        self._app = app
        self._crowd = backend.crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        host = connection.client.host if connection.client else ""
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        network = await self._crowd.client_of(host, forwarded)
        if refused := self._refusal(connection, network):
            return await refused.response()(scope, receive, send)
        if not self._crowd.is_proxy(host):
            return await self._serve(connection, network, receive, send)
        if not self._crowd.enter(network):
            error = Overloaded("this address has as many requests open as it may have")
            return await problem_of(error, request_id_of(connection)).response()(scope, receive, send)
        try:
            await self._serve(connection, network, receive, send)
        finally:
            self._crowd.leave(network)

    async def _serve(self, connection: HTTPConnection, network: str, receive: Receive, send: Send) -> None:
        is_charged = is_anonymous(connection)

        async def watch(message: Message) -> None:
            nonlocal is_charged
            is_charged = is_charged or status_of(message) in UNPROVEN
            await send(message)

        try:
            await self._app(connection.scope, receive, watch)
        finally:
            if is_charged:
                self._crowd.charge(network)

    def _refusal(self, connection: HTTPConnection, network: str) -> Problem | None:
        wait_s = self._crowd.wait_s(network)
        if not wait_s or connection.scope["path"] in PROBES:
            return None
        error = RateLimited("this address shows no valid credential too often", retry_after_s=wait_s)
        return replace(problem_of(error, request_id_of(connection)), headers={"connection": "close"})


def status_of(message: Message) -> int:
    """What a message says of the request's end, in HTTP's numbers; 0: nothing."""
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return int(message["status"])
        case "websocket.accept":
            return HTTPStatus.SWITCHING_PROTOCOLS
        case "websocket.close" if message.get("code", 0) > CLOSE_CODES:
            return int(message["code"]) - CLOSE_CODES
    return 0


def is_anonymous(connection: HTTPConnection) -> bool:
    """Whether it shows nothing to be let in by, where it should; a WebSocket does so after its handshake."""
    scope = connection.scope
    if scope["type"] == "websocket" or scope["path"] in PROBES or scope["state"].get(CERTIFICATE_NAME):
        return False
    if not scope["path"].startswith("/v1/"):
        return True  # nobody looks at a credential there
    headers = connection.headers
    return not (
        AUTHORIZATION in headers or RESUME_HEADER in headers or RESUME_PARAMETER in connection.query_params
    )
