"""Calls of Redis, each in its turn and with a deadline."""

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.gateway.journal.errors import StoreUnavailable

BYTES_PER_S = 10e6
"""The slowest that moving much data may be; its deadline grows by that."""


def connect(url: str) -> Redis:
    """A client for `redis://`, `rediss://` (TLS) or `unix://`; the journal retries, the client does not."""
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=None)


class RedisCalls:
    """Each raises StoreUnavailable when Redis does not answer in time, or refuses."""

    def __init__(self, client: Redis, call_timeout_s: float, max_calls: int) -> None:
        self._client = client
        self._register = functools.cache(client.register_script)
        self._call_timeout_s = call_timeout_s
        self._turns = asyncio.Semaphore(max_calls)
        """First come, first served, which a connection pool is not."""

    async def close(self) -> None:
        await self._client.aclose()

    async def _script(self, source: str, keys: Sequence[str], *arguments: Any, num_bytes: int = 0) -> Any:
        """What a script answers; Redis has it compiled after the first time."""
        script = self._register(source)
        async with self._call(num_bytes):
            return await script(keys, arguments, self._client)

    async def _do(self, *command: Any, num_bytes: int = 0) -> Any:
        client = cast(Any, self._client)
        async with self._call(num_bytes):
            return await client.execute_command(*command)

    async def _pipeline(
        self, *commands: tuple[Any, ...], is_atomic: bool = False, num_bytes: int = 0
    ) -> list[Any]:
        if not commands:
            return []
        pipeline = self._client.pipeline(transaction=is_atomic)
        for command in commands:
            pipeline.execute_command(*command)
        async with self._call(num_bytes):
            return list(await pipeline.execute())

    @asynccontextmanager
    async def _call(self, num_bytes: int) -> AsyncIterator[None]:
        """A call in its turn and with its deadline."""
        try:
            async with asyncio.timeout(self._call_timeout_s + num_bytes / BYTES_PER_S), self._turns:
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"Redis: {error or type(error).__name__}") from error
