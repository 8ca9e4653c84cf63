"""A Kubernetes API server on loopback, as far as the gateway needs one: the true paths, verbs, versions,
pages, watches, patches and refusals, and every way of failing that a test may wish for."""

import asyncio
import base64
import copy
import json
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

NAMESPACE = "films"
GROUPS = {"endpointslices": "discovery.k8s.io", "pods": "", "events": "events.k8s.io"}
VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
Object = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One request, as RBAC sees it."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    query: dict[str, str] = field(compare=False)
    token: str = field(compare=False)


@dataclass
class Watch:
    """One that is open."""

    selector: str
    bookmarks: bool
    version: str = ""
    """Of the last bookmark."""
    lines: "asyncio.Queue[bytes | None]" = field(default_factory=asyncio.Queue)
    """None: its end."""
    transport: asyncio.Transport | None = None


@dataclass
class Refusal:
    """Of one call."""

    status: int
    verb: str | None
    headers: dict[str, str]
    skip: int

    def takes(self, call: Call) -> bool:
        """Whether it is this call's."""
        if self.verb not in (None, call.verb):
            return False
        self.skip -= 1
        return self.skip < 0


class FakeApiServer:
    """`start` after `stop` is the same server at the same port, with the same objects."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        """`context`: for TLS."""
        self.port = 0
        self.calls: list[Call] = []
        """All of them, refused ones included."""
        self.objects: dict[tuple[str, str], Object] = {}
        """By resource and name."""
        self.watches: list[Watch] = []
        self.token: str | None = None
        """The only credential that it takes; None: any."""
        self.is_silent = False
        """It takes requests, and never answers."""
        self.is_deaf = False
        """Watches neither end nor tell anything."""
        self.answers: list[bytes] = []
        """To the next lists, instead of the truth."""
        self.gone_in_stream = False
        """A watch from too far back is told so by an event, not by a status."""
        self.refusals: deque[Refusal] = deque()
        self._context = context
        self._version = 100
        self._oldest = 0
        self._pages_expired = False
        self._history: list[tuple[int, str, Object]] = []
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http{'s' if self._context else ''}://127.0.0.1:{self.port}"

    # Its life.

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        options = {"ssl_context": self._context, "reuse_address": True}
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, **options)  # type: ignore[arg-type]
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Connections break, and nobody listens."""
        self.cut_watches()
        if self._runner:
            await self._runner.cleanup()
        self._runner = None

    async def __aenter__(self) -> "FakeApiServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # What a test does to it.

    def put(self, resource: str, item: Object) -> None:
        """Create or replace an object, and tell the watches."""
        name = item["metadata"]["name"]
        kind = "MODIFIED" if (resource, name) in self.objects else "ADDED"
        self._store(resource, name, kind, item)

    def remove(self, resource: str, name: str) -> None:
        self._store(resource, name, "DELETED", self.objects[resource, name])

    def refuse(
        self,
        status: int,
        times: int = 1,
        verb: str | None = None,
        headers: dict[str, str] | None = None,
        skip: int = 0,
    ) -> None:
        """The next calls, or the next of a verb, after `skip` of them."""
        for _ in range(times):
            self.refusals.append(Refusal(status, verb, headers or {}, skip))

    def compact(self) -> None:
        """Forget all that was: watches from earlier versions and pages of earlier lists are gone."""
        self._version += 1
        self._oldest = self._version
        self._pages_expired = True

    def cut_watches(self) -> None:
        """In the middle of an answer; what changes from here on, the next watch must tell."""
        for watch in self.watches:
            if watch.transport:
                watch.transport.abort()
        self.say(None)

    def end_watches(self) -> None:
        """In order, as after their timeout; what changes from here on, the next watch must tell."""
        self.say(None)

    def say(self, line: bytes | None) -> None:
        """To all watches, whatever it is."""
        for watch in self.watches:
            watch.lines.put_nowait(line)

    def bookmark(self) -> None:
        """Tell watches that want it how far they are."""
        self._version += 1
        item = {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self._version)}}
        for watch in self.watches:
            if watch.bookmarks:
                watch.version = str(self._version)
                watch.lines.put_nowait(encode("BOOKMARK", item))

    def of(self, verb: str) -> list[Call]:
        """The calls of this verb."""
        return [call for call in self.calls if call.verb == verb]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Looked at with each request."""
        async with asyncio.timeout(30):
            while not condition():
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._changed.wait()

    # What it does with requests.

    def _store(self, resource: str, name: str, kind: str, item: Object) -> None:
        self._version += 1
        item = copy.deepcopy(item)
        item["metadata"]["resourceVersion"] = str(self._version)
        if kind == "DELETED":
            del self.objects[resource, name]
        else:
            self.objects[resource, name] = item
        if resource == "endpointslices":
            self._history.append((self._version, kind, item))
            for watch in self.watches:
                if matches(item, watch.selector):
                    watch.lines.put_nowait(encode(kind, item))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = call_of(request)
        self.calls.append(call)
        self._changed.set()
        while self.is_silent:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if refusal := next((refusal for refusal in self.refusals if refusal.takes(call)), None):
            self.refusals.remove(refusal)
            return failure(refusal.status, "so the test wants it", refusal.headers)
        if self.token is not None and call.token != f"Bearer {self.token}":
            return failure(401, "Unauthorized")
        if call.namespace != NAMESPACE or GROUPS.get(call.resource) != call.group:
            return failure(404, "the server could not find the requested resource")
        match call.verb, call.resource:
            case "list", "endpointslices":
                return self._list(call)
            case "watch", "endpointslices":
                return await self._watch(call, request)
            case "get", "pods":
                return self._get(call)
            case "patch", "pods":
                return self._patch(call, request.content_type, await request.json())
            case "create", "events":
                return self._create(await request.json())
        return failure(405, "the server does not allow this method")

    def _list(self, call: Call) -> web.Response:
        if self.answers:
            return web.Response(body=self.answers.pop(0), content_type="application/json")
        version, start = self._version, 0
        if token := call.query.get("continue"):
            version, start = json.loads(base64.b64decode(token))
            if self._pages_expired:
                self._pages_expired = False
                return failure(410, "The provided continue parameter is too old")
        selector = call.query.get("labelSelector", "")
        items = [item for (kind, _), item in sorted(self.objects.items()) if kind == "endpointslices"]
        items = [item for item in items if matches(item, selector)]
        limit = int(call.query.get("limit", len(items) or 1))
        metadata: Object = {"resourceVersion": str(version)}
        if start + limit < len(items):
            metadata["continue"] = base64.b64encode(json.dumps([version, start + limit]).encode()).decode()
            metadata["remainingItemCount"] = len(items) - start - limit
        return web.json_response(
            {
                "kind": "EndpointSliceList",
                "apiVersion": "discovery.k8s.io/v1",
                "metadata": metadata,
                "items": items[start : start + limit],
            }
        )

    async def _watch(self, call: Call, request: web.Request) -> web.StreamResponse:
        version = int(call.query["resourceVersion"])
        if version < self._oldest and not self.gone_in_stream:
            return failure(410, f"too old resource version: {version}")
        watch = Watch(call.query.get("labelSelector", ""), call.query.get("allowWatchBookmarks") == "true")
        watch.transport = request.transport  # type: ignore[assignment]
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if version < self._oldest:
            item = status_object(410, f"too old resource version: {version}")
            await response.write(encode("ERROR", item))
            return response
        for at, kind, item in self._history:
            if at > version and matches(item, watch.selector):
                watch.lines.put_nowait(encode(kind, item))
        self.watches.append(watch)
        self._changed.set()
        try:
            async with asyncio.timeout(None if self.is_deaf else float(call.query["timeoutSeconds"])):
                while (line := await watch.lines.get()) is not None:
                    if not self.is_deaf:
                        await response.write(line)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self.watches.remove(watch)
        return response

    def _get(self, call: Call) -> web.Response:
        pod = self.objects.get(("pods", call.name))
        return web.json_response(pod) if pod else failure(404, f'pods "{call.name}" not found')

    def _patch(self, call: Call, content_type: str, patch: Any) -> web.Response:
        if content_type != "application/merge-patch+json":
            return failure(415, f"the body of the request was in an unknown format: {content_type}")
        pod = self.objects.get(("pods", call.name))
        if pod is None:
            return failure(404, f'pods "{call.name}" not found')
        if (uid := patch.get("metadata", {}).get("uid", pod["metadata"]["uid"])) != pod["metadata"]["uid"]:
            reason = f'metadata.uid: Invalid value: "{uid}": field is immutable'
            return failure(422, f'Pod "{call.name}" is invalid: {reason}')
        self._store("pods", call.name, "MODIFIED", merge_patch(pod, patch))
        return web.json_response(self.objects["pods", call.name])

    def _create(self, event: Object) -> web.Response:
        """As the API server validates events of events.k8s.io/v1."""
        name = event["metadata"]["name"]
        if ("events", name) in self.objects:
            return failure(409, f'events.events.k8s.io "{name}" already exists')
        for required in ("eventTime", "reportingController", "reportingInstance", "action", "reason", "type"):
            if not event.get(required):
                return failure(422, f"{required}: Required value")
        is_valid = (
            event["type"] in ("Normal", "Warning")
            and len(event.get("note", "").encode()) <= 1024
            and event["regarding"]["namespace"] == event["metadata"]["namespace"] == NAMESPACE
            and len(name) <= 253
            and "." in event["eventTime"]
        )
        if not is_valid:
            return failure(422, "Event is invalid")
        self._store("events", name, "ADDED", event)
        return web.json_response(self.objects["events", name], status=201)


def call_of(request: web.Request) -> Call:
    """By the rules of https://kubernetes.io/docs/reference/access-authn-authz/authorization/."""
    parts = request.path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = rest[1] if rest[0] == "namespaces" and len(rest) > 2 else ""
    resource, *name = rest[2:] if namespace else rest
    verb = VERBS[request.method]
    if verb == "get" and not name:
        verb = "watch" if request.query.get("watch") in ("true", "1") else "list"
    token = request.headers.get("Authorization", "")
    full = "/".join([resource, *name[1:]])
    return Call(verb, group, full, namespace, name[0] if name else "", dict(request.query), token)


def matches(item: Object, selector: str) -> bool:
    """Of selectors with `=` alone."""
    labels = item["metadata"].get("labels", {})
    return all(
        labels.get(key) == value for key, _, value in (part.partition("=") for part in selector.split(","))
    )


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def encode(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def status_object(code: int, message: str) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


def failure(code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(status_object(code, message), status=code, headers=headers)


# Objects, as the API has them.


def slice_object(
    name: str, *endpoints: Object, service: str = "stage", address_type: str = "IPv4", port: int = 50061
) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": service}},
        "addressType": address_type,
        "endpoints": list(endpoints),
        "ports": [
            {"name": "metrics", "port": 9090, "protocol": "TCP"},
            {"name": "grpc", "port": port, "protocol": "TCP", "appProtocol": "grpc"},
        ],
    }


def endpoint_object(
    address: str, pod: str = "", *, ready: bool | None = None, terminating: bool | None = None
) -> Object:
    """`pod`: its name; the uid is made of it."""
    conditions = {"ready": ready, "serving": ready, "terminating": terminating}
    found: Object = {
        "addresses": [address],
        "conditions": {name: value for name, value in conditions.items() if value is not None},
        "nodeName": "node-1",
    }
    if pod:
        found["targetRef"] = {"kind": "Pod", "namespace": NAMESPACE, "name": pod, "uid": f"uid-{pod}"}
    return found


def pod_object(name: str, **annotations: str) -> Object:
    metadata: Object = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"}
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}
