"""Every method of SessionService and OperatorService with one answer as HTTP, derived from the descriptors.

Create, List, Get and Delete are those of a resource, models and overview have paths of their own; any other
method is a custom one of a session: `SwitchPrompt` is POST `/v1/sessions/{session}:switchPrompt`, and
`PauseSession` ends in `:pause`.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from services.common.validation import InvalidField
from services.web.backend import Backend
from services.web.body import read_json, too_large
from services.web.gateways import OPERATOR_SERVICE, SERVICE
from services.web.mapping import json_of, parse_json, to_message
from services.web.settings import HttpSettings
from services.web.start_files import LargeBodies, check_base64, take_out

COLLECTION = "/v1/sessions"
RESOURCE = COLLECTION + "/{session}"
STANDARD = {
    "CreateSession": ("POST", COLLECTION),
    "ListSessions": ("GET", COLLECTION),
    "GetSession": ("GET", RESOURCE),
    "DeleteSession": ("DELETE", RESOURCE),
    "ListModels": ("GET", "/v1/models"),
    "GetOverview": ("GET", "/v1/overview"),
}
LARGE_BYTES = 16 * 1024
"""Parsing 100 kB takes 2 ms, or 80 ms where somebody has made it so that it takes long."""
IDEMPOTENCY = "idempotency-key"
SUBSCRIPT = re.compile(r"(\w+)\[([^\]]*)\]")


@dataclass(frozen=True)
class Method:
    """One method of the contract as HTTP."""

    service: str
    name: str
    verb: str
    path: str
    """With `{session}` where it names one."""
    request: Descriptor
    response: Descriptor

    @property
    def has_body(self) -> bool:
        """Else its fields are in the query."""
        return self.verb == "POST"

    @property
    def is_idempotent(self) -> bool:
        """Whether a repeat is known by its request_id."""
        return "request_id" in self.request.fields_by_name

    @property
    def names_session(self) -> bool:
        return "{session}" in self.path

    @property
    def status(self) -> HTTPStatus:
        """Of success."""
        return HTTPStatus.CREATED if self.name == "CreateSession" else HTTPStatus.OK

    @property
    def fields(self) -> Sequence[FieldDescriptor]:
        """Those beside the path."""
        return [item for item in self.request.fields if item.name != "name" or not self.names_session]


def method_of(descriptor: MethodDescriptor) -> Method:
    verb, path = STANDARD.get(descriptor.name) or ("POST", f"{RESOURCE}:{custom_verb(descriptor.name)}")
    service = descriptor.containing_service.name
    return Method(service, descriptor.name, verb, path, descriptor.input_type, descriptor.output_type)


def custom_verb(name: str) -> str:
    """`SwitchPrompt` -> `switchPrompt`, `PauseSession` -> `pause`."""
    short = name.removesuffix("Session")
    return short[0].lower() + short[1:]


METHODS = [
    method_of(item)
    for service in (SERVICE, OPERATOR_SERVICE)
    for item in service.methods
    if not (item.client_streaming or item.server_streaming)
]


def routes(backend: Backend) -> list[BaseRoute]:
    """Custom methods first, since `{session}` would take them for part of its name."""
    parsing, bodies = asyncio.Lock(), LargeBodies(backend)
    ordered = sorted(METHODS, key=lambda method: ":" not in method.path)
    return [
        Route(item.path, endpoint(item, backend, parsing, bodies), methods=[item.verb], name=item.name)
        for item in ordered
    ]


def endpoint(method: Method, backend: Backend, parsing: asyncio.Lock, bodies: LargeBodies) -> Any:
    async def answer(request: Request) -> Response:
        async with bodies.room(request, method.name) as most_bytes:
            if method.has_body:
                message = await read_message(request, method, backend.settings, parsing, most_bytes)
            else:
                message = new(method, from_query(request.query_params, method))
            put_name(message, request.path_params.get("session"))
            put_request_id(message, method, request.headers.get(IDEMPOTENCY))
            found = await backend.unary(method.name, message, backend.credentials(request))
        return JSONResponse(json_of(found), method.status, headers_of(method, found))

    return answer


async def read_message(
    request: Request, method: Method, settings: HttpSettings, parsing: asyncio.Lock, most_bytes: int
) -> Any:
    """From the body; large ones beside the event loop. Raises HttpError, Malformed and InvalidField."""
    content = await read_json(request, settings, most_bytes)

    def parse() -> Any:
        rest, file = take_out(content) if len(content) > settings.max_body_bytes else (content, None)
        if len(rest) > settings.max_body_bytes:
            raise too_large(settings.max_body_bytes)
        values = parse_json(rest) if rest else {}
        check_base64(values)
        message = new(method, values)
        if file:
            file.put_back(message)
        return message

    if len(content) <= LARGE_BYTES:
        return parse()
    async with parsing:
        return await asyncio.to_thread(parse)


def new(method: Method, values: dict[str, Any]) -> Any:
    return to_message(values, GetMessageClass(method.request)())


def headers_of(method: Method, found: Any) -> dict[str, str]:
    return {"location": f"/v1/{found.session.name}"} if method.status == HTTPStatus.CREATED else {}


def put_name(message: Any, session: str | None) -> None:
    """From the path. Raises InvalidField."""
    if session is None:
        return
    name = f"sessions/{session}"
    if message.name not in ("", name):
        raise InvalidField([("name", "is not that of the path")])
    message.name = name


def put_request_id(message: Any, method: Method, header: str | None) -> None:
    """From the header, which may be quoted. Raises InvalidField."""
    if header is None or not method.is_idempotent:
        return
    key = header.strip().removeprefix('"').removesuffix('"')
    if message.request_id not in ("", key):
        raise InvalidField([("request_id", "is not that of the header Idempotency-Key")])
    to_message({"request_id": key}, message)


def from_query(query: QueryParams, method: Method) -> dict[str, Any]:
    """`states=A&states=B`, `labels[key]=value`. Raises InvalidField."""
    known = {name: item for item in method.fields for name in (item.name, item.json_name)}
    values: dict[str, Any] = {}
    for key, text in query.multi_items():
        subscript = SUBSCRIPT.fullmatch(key)
        name, field = (subscript[1] if subscript else key), known.get(subscript[1] if subscript else key)
        if field is None or is_map(field) != bool(subscript):
            raise InvalidField([(key[:200], "is not known in the query")])
        if subscript:
            values.setdefault(field.json_name, {})[subscript[2]] = text
        elif field.is_repeated:
            values.setdefault(field.json_name, []).append(text)
        elif field.json_name in values:
            raise InvalidField([(name, "is given twice")])
        else:
            values[field.json_name] = text
    return values


def is_map(field: FieldDescriptor) -> bool:
    kind: Descriptor | None = field.message_type
    return kind is not None and kind.GetOptions().map_entry
