"""The application: routes, and what surrounds every request."""

import asyncio
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from cascade_core.errors import CascadeError
from services.common.auth import AUTHORIZATION
from services.common.call import REQUEST_ID
from services.web import mirror, pages, streams
from services.web.backend import RESUME_HEADER, Backend, request_id_of
from services.web.origins import read_origin
from services.web.problems import HttpError, problem_of
from services.web.safety import Safety

OPENAPI = Path(__file__).with_name("openapi.json")
"""Made by `openapi.py` when the contract changes."""
METHODS = ("GET", "POST", "DELETE")
HEADERS = (AUTHORIZATION, "content-type", "traceparent", mirror.IDEMPOTENCY, REQUEST_ID, RESUME_HEADER)


def make_app(backend: Backend, registry: CollectorRegistry) -> ASGIApp:
    """All of it."""
    settings = backend.settings
    routes = [
        *mirror.routes(backend),
        *streams.routes(backend),
        *pages.routes(backend),
        *own_routes(backend, registry),
    ]
    kinds: tuple[Any, ...] = (grpc.aio.AioRpcError, CascadeError, HttpError, HTTPException, Exception)
    app: ASGIApp = Starlette(routes=routes, exception_handlers=dict.fromkeys(kinds, answer_problem))
    if settings.cors_origins:
        app = NamedOrigins(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=METHODS,
            allow_headers=HEADERS,
            expose_headers=("retry-after", "location", REQUEST_ID),
        )
    return Safety(app, backend)


class NamedOrigins(CORSMiddleware):
    """Compares origins as `Safety` does, which refuses the others."""

    def is_allowed_origin(self, origin: str) -> bool:
        return read_origin(origin) in map(read_origin, self.allow_origins)


def own_routes(backend: Backend, registry: CollectorRegistry) -> list[BaseRoute]:
    """What is no part of the contract."""
    openapi = JSONResponse(json.loads(OPENAPI.read_text())).body

    async def describe(_: Request) -> Response:
        return Response(openapi, media_type=JSONResponse.media_type)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readiness(_: Request) -> Response:
        if await backend.is_ready():
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready\n", HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(_: Request) -> Response:
        return Response(await asyncio.to_thread(generate_latest, registry), media_type=CONTENT_TYPE_LATEST)

    routes: list[BaseRoute] = [
        Route("/openapi.json", describe),
        Route("/healthz", health),
        Route("/readyz", readiness),
    ]
    return [*routes, Route("/metrics", metrics)] if backend.settings.metrics else routes


async def answer_problem(request: Request, error: Exception) -> Response:
    """Any error as problem+json."""
    if isinstance(error, HTTPException):
        error = HttpError(error.status_code, error.detail, headers=error.headers)
    return problem_of(error, request_id_of(request)).response()
