"""A town with an HTTP side, and its clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from tests.services.support.gateway_support import PROMPT, WAIT_S, Town, fresh_id, town

PROBLEM = "application/problem+json"


@asynccontextmanager
async def http_town(*, http: dict[str, Any] | None = None, **options: Any) -> AsyncIterator["HttpTown"]:
    async with town(http=http or {}, **options) as place, client(place.url) as visitor:
        yield HttpTown(place, visitor)


def client(url: str, tenant: str = "", **headers: str) -> httpx2.AsyncClient:
    """With the tenant's key; without one: nobody's."""
    if tenant:
        headers["authorization"] = f"Bearer key-{tenant}"
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=WAIT_S, trust_env=False)


class HttpTown:
    """A town, and a visitor without a key."""

    def __init__(self, place: Town, visitor: httpx2.AsyncClient) -> None:
        self.town = place
        self.visitor = visitor

    def as_tenant(self, name: str) -> httpx2.AsyncClient:
        return client(self.town.url, name)


def spec(**fields: Any) -> dict[str, Any]:
    return {"prompts": {"0": PROMPT}} | fields


async def create(visitor: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A new session."""
    body = {"requestId": fresh_id(), "spec": spec()} | fields
    answer = await visitor.post("/v1/sessions", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json()["session"])


def problem(answer: httpx2.Response, status: int, reason: str = "") -> dict[str, Any]:
    """Its content, after a look at the form that all have."""
    content = dict(answer.json())
    assert answer.headers["content-type"] == PROBLEM
    assert (answer.status_code, content.get("reason", "")) == (status, reason), answer.text
    assert content["status"] == status
    assert all(content[name] for name in ("title", "detail"))
    assert content["type"] == (f"urn:cascade:reason:{reason}" if reason else "about:blank")
    return content


def fields(content: dict[str, Any]) -> list[str]:
    return [item["field"] for item in content["fieldViolations"]]
