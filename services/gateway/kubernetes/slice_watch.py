"""Lists the EndpointSlices of a Service, then watches them: what was known stays until it is replaced."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import structlog

from services.gateway.base.settings import KubernetesSettings
from services.gateway.kubernetes.api import Api
from services.gateway.kubernetes.clock import Clock
from services.gateway.kubernetes.errors import ApiError, MalformedAnswer
from services.gateway.kubernetes.slices import Slice, merge, parsed
from services.gateway.peers.endpoints import Endpoint

log = structlog.get_logger(__name__)
BRIEF_S = 1.0
"""A watch that ended sooner, without an event, has failed."""


class SliceWatch:
    """The servers of one kind: an Endpoints that never gives up, and never empties because of an error."""

    def __init__(self, api: Api, kind: str, service: str, settings: KubernetesSettings, clock: Clock) -> None:
        self._api = api
        self._kind = kind
        self._service = service
        self._settings = settings
        self._clock = clock
        self._backoff = clock.backoff()
        self._slices: dict[str, frozenset[Endpoint]] = {}
        self._version: str | None = None
        """To watch from; None: list first."""
        self._listed_s: float | None = None
        """Clock at the last list; None: nothing is known yet."""
        self._is_connected = False
        self._set_connected(False)

    async def watch(self) -> AsyncGenerator[frozenset[Endpoint], None]:
        """The whole set, once it is known, and at each change. Never ends."""
        told: frozenset[Endpoint] | None = None
        if self._listed_s is not None:  # whoever asks anew gets what is known
            yield (told := merge(self._slices.values()))
        while True:
            async with aclosing(self._news()) as news:
                async for _ in news:
                    if (endpoints := merge(self._slices.values())) != told:
                        told = endpoints
                        yield endpoints

    async def _news(self) -> AsyncGenerator[None, None]:
        """Whenever the slices may have changed, until one watch is over."""
        try:
            if self._version is None or self._is_resync_due():
                await self._list()
                yield
            async with aclosing(self._follow()) as changes:
                async for _ in changes:
                    yield
        except ApiError as error:
            await self._suffer(error)

    def _is_resync_due(self) -> bool:
        return self._listed_s is None or self._clock.now() - self._listed_s >= self._settings.resync_s

    async def _list(self) -> None:
        """Replaces all that was known, but not before all of it has come."""
        items, version = await self._api.list_slices(self._service)
        slices: dict[str, frozenset[Endpoint]] = {}
        for item in items:
            if name := name_of(item):
                slices[name] = self._read(name, item)
        self._slices, self._version, self._listed_s = slices, version, self._clock.now()
        self._set_connected(True)

    async def _follow(self) -> AsyncGenerator[None, None]:
        """After each change, until the server ends the watch, which it does every now and then."""
        assert self._version is not None
        began_s, has_news = self._clock.now(), False
        limit_s = self._settings.watch_timeout_s
        async with self._api.watch_slices(self._service, self._version, limit_s) as events:
            self._set_connected(True)
            async for event in events:
                has_changed, has_news = self._take(event), True
                self._backoff.reset()
                if has_changed:
                    yield
                if self._is_resync_due():
                    return
        if not has_news and self._clock.now() - began_s < BRIEF_S:
            await self._backoff.wait()
        else:
            self._backoff.reset()

    def _take(self, event: Mapping[str, Any]) -> bool:
        """True if the slices may have changed. Raises MalformedAnswer."""
        kind, item = event.get("type"), event["object"]
        name, version = name_of(item), metadata_of(item).get("resourceVersion")
        if not version or not (name or kind == "BOOKMARK"):
            raise MalformedAnswer(f"watch: {kind} without a name or a version")
        if kind in ("ADDED", "MODIFIED"):
            self._slices[name] = self._read(name, item)
        elif kind == "DELETED":
            self._slices.pop(name, None)
        self._version = str(version)  # also of a BOOKMARK, which is there for that
        return kind != "BOOKMARK"

    def _read(self, name: str, item: Any) -> frozenset[Endpoint]:
        """Its servers; as they were known, where it cannot be read."""
        if found := parsed(Slice, item):
            return found.read(self._settings.port_name)
        log.warning("EndpointSlice cannot be read; what was known of it stays", slice=name)
        return self._slices.get(name, frozenset())

    async def _suffer(self, error: ApiError) -> None:
        """Wait, and forget the version where it is of no use any more."""
        self._set_connected(False)
        if error.is_final or isinstance(error, MalformedAnswer):
            self._version = None
        log.warning("no news from the API server; those known stay", kind=self._kind, reason=str(error))
        await self._backoff.wait(error.retry_after_s, spares_first=error.is_gone)

    def _set_connected(self, is_connected: bool) -> None:
        if is_connected and not self._is_connected:
            log.info("following", kind=self._kind, service=self._service, num_slices=len(self._slices))
        self._is_connected = is_connected
        self._api.metrics.connected.labels(self._kind).set(is_connected)


def metadata_of(item: Any) -> Mapping[str, Any]:
    """Empty where it has none."""
    metadata = item.get("metadata") if isinstance(item, Mapping) else None
    return metadata if isinstance(metadata, Mapping) else {}


def name_of(item: Any) -> str:
    """Empty where it has none."""
    name = metadata_of(item).get("name")
    return name if isinstance(name, str) else ""
