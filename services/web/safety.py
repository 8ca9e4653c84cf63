"""What surrounds every request: bounds, origins, headers, one line in the log."""

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.call import REQUEST_ID
from services.web.backend import Backend, request_id_of
from services.web.bounds import PROBES, Bounds, status_of
from services.web.origins import is_own, read_origin
from services.web.problems import HttpError, Problem

log = structlog.get_logger(__name__)
SAFE = ("GET", "HEAD", "OPTIONS")
HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Of every answer that does not bring its own."""
HSTS = "max-age=31536000"
REFUSED_ORIGIN = (
    "pages of this origin may not call here: name it in the setting http.cors_origins; or, if it is our own,"
    " let the proxy pass Host on, or X-Forwarded-Host, with its network in http.trusted_proxies"
)


class Safety:
    """The outermost layer, so that answers to failures have it too."""

    def __init__(self, app: ASGIApp, backend: Backend) -> None:
        self._app = Bounds(app, backend)
        self._backend = backend
        self._settings = backend.settings
        self._hosts = Hosts(backend.settings.hosts)
        self._named = {read_origin(each) for each in backend.settings.cors_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        connection = HTTPConnection(scope)
        request_id, started, status = request_id_of(connection), time.monotonic(), 0

        async def dress(message: Message) -> None:
            nonlocal status
            status = status_of(message) or status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                self._dress(MutableHeaders(scope=message), request_id, scope["scheme"])
            await send(message)

        refused = await self._refusal(connection)
        try:
            await (refused.response() if refused else self._app)(scope, receive, dress)
        finally:
            tell = log.debug if scope["path"] in PROBES else log.info
            tell(
                "http request ended",
                method=scope.get("method", "WEBSOCKET"),
                path=scope.get("raw_path", b"").decode("ascii", "replace"),
                status=status,
                request_id=request_id,
                duration_ms=round((time.monotonic() - started) * 1000, 1),
            )

    async def _refusal(self, connection: HTTPConnection) -> Problem | None:
        scope = connection.scope
        pairs = [part for pair in scope["headers"] for part in pair]
        num_bytes = sum(map(len, (scope.get("raw_path", b""), scope["query_string"], *pairs)))
        most = self._settings.max_header_bytes
        if num_bytes > most:
            text = f"the headers have {num_bytes} bytes; the setting http.max_header_bytes allows {most}"
            return HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text).problem
        if scope["path"] not in PROBES and not await self._hosts.know(scope):
            text = "this server is not reached by that name; see the setting http.hosts"
            return HttpError(HTTPStatus.MISDIRECTED_REQUEST, text).problem
        is_safe = scope["type"] == "http" and scope["method"] in SAFE
        if not is_safe and not self._may_call(connection):
            return HttpError(HTTPStatus.FORBIDDEN, REFUSED_ORIGIN).problem
        return None

    def _may_call(self, connection: HTTPConnection) -> bool:
        """Whether this may change something: no browser, our own page, or one that was named."""
        text = connection.headers.get("origin")
        if text is None:
            return True
        origin, host = read_origin(text), connection.client.host if connection.client else ""
        return origin is not None and (
            origin in self._named or is_own(origin, connection, self._backend.crowd.is_proxy(host))
        )

    def _dress(self, headers: MutableHeaders, request_id: str, scheme: str) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers[REQUEST_ID] = request_id
        if scheme in ("https", "wss"):
            headers.setdefault("strict-transport-security", HSTS)
        if self._backend.leaving.is_set():
            headers["connection"] = "close"


class Hosts:
    """The names by which a server is reached, as Starlette compares them. Its own answer to others is no
    problem+json, and cannot be replaced, so it is asked only whether it lets a request pass."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """`names` empty: any."""
        self._check = TrustedHostMiddleware(self._pass, names or ("*",), www_redirect=False)

    async def know(self, scope: Scope) -> bool:
        host = Headers(scope=scope).get("host", "").removesuffix(":")  # an empty port is a port (RFC 9110)
        asked: Scope = {"type": "http", "headers": [(b"host", host.encode("latin-1"))], "is_known": False}
        await self._check(asked, ignore, ignore)
        return bool(asked["is_known"])

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["is_known"] = True


async def ignore(*_: Any) -> Any:
    """What is said to nobody."""
