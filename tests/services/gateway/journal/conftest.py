"""A Redis for several tests, and one journal or several on each kind of store."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.services.support.journal_support import Site
from tests.services.support.redis_support import RedisServer, needs_redis


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    server = RedisServer(cluster=True)
    yield server
    server.close()


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """To be killed; it keeps what it acknowledged."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture(
    params=["memory", pytest.param("server", marks=needs_redis), pytest.param("cluster", marks=needs_redis)]
)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    server = None if request.param == "memory" else request.getfixturevalue(request.param)
    if server:
        server.command("FLUSHALL")
    site = Site(server)
    yield site
    await site.close()
