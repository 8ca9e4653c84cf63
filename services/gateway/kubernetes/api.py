"""The calls that the gateway makes to the Kubernetes API server, and no others: see the chart's Role."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from kubernetes.aio.client import ApiClient, CoreV1Api, DiscoveryV1Api, EventsV1Api

from services.common.watched import WatchedFiles
from services.gateway.kubernetes.access import Access
from services.gateway.kubernetes.errors import ApiError, MalformedAnswer, refusal
from services.gateway.kubernetes.metrics import ClusterMetrics
from services.gateway.peers.endpoints import Pod

SERVICE_LABEL = "kubernetes.io/service-name"
MERGE_PATCH = "application/merge-patch+json"
PAGE = 500
"""Slices per answer."""
NO_ANSWER = (aiohttp.ClientError, OSError, TimeoutError)
Send = Callable[[ApiClient], Awaitable[aiohttp.ClientResponse]]


class Api:
    """One connection pool. Every call ends within its deadline, and raises ApiError."""

    def __init__(
        self, access: Access, metrics: ClusterMetrics, request_timeout_s: float, page: int = PAGE
    ) -> None:
        self.namespace = access.namespace
        self.metrics = metrics
        self._access = access
        self._timeout_s = request_timeout_s
        self._page = page
        self._clients: list[ApiClient] = []
        """The newest, and those for earlier authorities, which finish what they began."""
        self._client = WatchedFiles([access.ca] if access.ca else [], self._connect)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def list_slices(self, service: str) -> tuple[list[Any], str]:
        """All EndpointSlices of a Service, and the version to watch from."""
        items: list[Any] = []
        token: str | None = None
        while True:
            page = await self._list_page(service, token)
            metadata, part = page.get("metadata"), page.get("items")
            if not isinstance(metadata, Mapping) or not isinstance(part, list | None):
                raise MalformedAnswer(f"slices of {service}: the answer is no list")
            items += part or ()
            token = metadata.get("continue") or None
            if token is None:
                return items, str(metadata.get("resourceVersion", ""))

    async def _list_page(self, service: str, token: str | None) -> Mapping[str, Any]:
        return await self._ask(
            "list",
            lambda client: DiscoveryV1Api(client).list_namespaced_endpoint_slice_without_preload_content(
                self.namespace,
                label_selector=f"{SERVICE_LABEL}={service}",
                limit=self._page,
                _continue=token,
                _request_timeout=self._timeout_s,
            ),
        )

    @asynccontextmanager
    async def watch_slices(
        self, service: str, version: str, timeout_s: float
    ) -> AsyncIterator[AsyncGenerator[Mapping[str, Any], None]]:
        """The changes after a version, as events of the API, until the server ends the watch, as it is asked
        to after `timeout_s`. One that lasts longer than that and a request's deadline together raises
        ApiError. The block begins when the server has agreed."""

        def send(client: ApiClient) -> Awaitable[aiohttp.ClientResponse]:
            calls = DiscoveryV1Api(client)
            found: Awaitable[aiohttp.ClientResponse] = (
                calls.list_namespaced_endpoint_slice_without_preload_content(
                    self.namespace,
                    label_selector=f"{SERVICE_LABEL}={service}",
                    resource_version=version,
                    watch=True,
                    allow_watch_bookmarks=True,
                    timeout_seconds=max(1, round(timeout_s)),
                    _request_timeout=timeout_s + self._timeout_s,
                )
            )
            return found

        async with self._answered("watch", send) as response, aclosing(events(response)) as found:
            yield found

    async def get_annotation(self, pod: Pod, name: str) -> str | None:
        """None: it has none. Raises ApiError (404) also where another pod has the name by now."""
        found = await self._ask(
            "get",
            lambda client: CoreV1Api(client).read_namespaced_pod_without_preload_content(
                pod.name, self.namespace, _request_timeout=self._timeout_s
            ),
        )
        metadata = found.get("metadata")
        if not isinstance(metadata, Mapping):
            raise MalformedAnswer(f"pod {pod.name}: the answer is no pod")
        if metadata.get("uid") != pod.uid:
            raise ApiError(f"pod {pod.name}: is another one by now", 404)
        return (metadata.get("annotations") or {}).get(name)

    async def set_annotation(self, pod: Pod, name: str, value: str | None) -> None:
        """None: remove it."""
        metadata = {"uid": pod.uid, "annotations": {name: value}}  # refused where the uid is another's
        await self._ask(
            "patch",
            lambda client: CoreV1Api(client).patch_namespaced_pod_without_preload_content(
                pod.name,
                self.namespace,
                {"metadata": metadata},
                _content_type=MERGE_PATCH,
                _request_timeout=self._timeout_s,
            ),
        )

    async def create_event(self, event: Mapping[str, Any]) -> None:
        """Of events.k8s.io/v1. Raises ApiError (409) where there is one of that name."""
        await self._ask(
            "create",
            lambda client: EventsV1Api(client).create_namespaced_event_without_preload_content(
                self.namespace, event, _request_timeout=self._timeout_s
            ),
        )

    async def _ask(self, call: str, send: Send) -> Mapping[str, Any]:
        """A call with one answer, which is an object."""
        async with self._answered(call, send) as response:
            body = await response.read()
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, Mapping):
            raise MalformedAnswer(f"{call}: the answer is no object")
        return answer

    @asynccontextmanager
    async def _answered(self, call: str, send: Send) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a call that was accepted, its body still to be read; counts how it went."""
        result = "ok"
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await send(self._client.get())
                if response.status >= 300:
                    header = response.headers.get("Retry-After")
                    raise refusal(call, response.status, header, await response.read())
            async with response:
                yield response
        except NO_ANSWER as error:
            result = "no_answer"
            raise ApiError(f"{call}: {type(error).__name__} {error}".rstrip()) from None
        except ApiError as error:
            result = error.result
            raise
        finally:
            self.metrics.calls.labels(call, result).inc()

    def _connect(self) -> ApiClient:
        self._clients.append(self._access.client())
        return self._clients[-1]


async def events(response: aiohttp.ClientResponse) -> AsyncGenerator[Mapping[str, Any], None]:
    """One JSON object per line. Raises ApiError, also for an ERROR event."""
    while line := await read_line(response):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, Mapping) or not isinstance(event.get("object"), Mapping):
            raise MalformedAnswer("watch: a line is no event")
        if event.get("type") == "ERROR":
            code = event["object"].get("code")
            reason = f"watch: {event['object'].get('message', '')}"
            raise ApiError(reason, code if isinstance(code, int) else None)
        yield event


async def read_line(response: aiohttp.ClientResponse) -> bytes:
    """Empty at the end. Raises MalformedAnswer where a line is too long."""
    try:
        return await response.content.readline()
    except (ValueError, HttpProcessingError):
        raise MalformedAnswer("watch: a line is too long") from None
