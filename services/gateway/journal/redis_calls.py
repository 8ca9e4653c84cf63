"""Calls to Redis, each in its turn and with a deadline."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, MasterDownError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnection
from redis.exceptions import TimeoutError as RedisTimeout

from services.common.shortened import shortened
from services.gateway.journal.errors import StoreUnavailable
from services.gateway.journal.redis_address import close

_log = logging.getLogger(__name__)
TELL_AGAIN_S = 10.0
BYTES_PER_S = 10e6
"""The slowest that data may travel: a call's deadline grows with its bytes by this."""
OUTDATED = (ReadOnlyError, MasterDownError, AuthenticationError)
"""Answers of a connection whose server was the primary, or whose password was right, when it was made."""


class RedisCalls:
    """Each raises StoreUnavailable when Redis does not answer in time, or refuses."""

    def __init__(self, client: Redis, call_timeout_s: float, max_calls: int) -> None:
        self._client = client
        self._register = functools.cache(client.register_script)
        self.call_timeout_s = call_timeout_s
        self._turns = asyncio.Semaphore(max_calls)
        """First come, first served, which a connection pool is not."""
        self._told, self._told_s = "", 0.0
        """What was logged last, and when."""

    async def close(self) -> None:
        await close(self._client)

    async def ask(self, *command: Any) -> Any:
        """The answer; None where Redis refuses the command, as managed ones refuse some."""
        try:
            return await self._do(*command)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, ResponseError):
                return None
            raise

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
            async with asyncio.timeout(self.call_timeout_s + num_bytes / BYTES_PER_S), self._turns:
                yield
        except (RedisError, OSError, TimeoutError) as error:
            if isinstance(error, OUTDATED) or "READONLY" in str(error):  # the latter within a script
                # After a failover the address leads elsewhere, which only new connections find out.
                with suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(self.call_timeout_s):
                        await self._client.connection_pool.disconnect(inuse_connections=False)
            self._tell(error)
            raise StoreUnavailable(complaint(error)) from error

    def _tell(self, error: Exception) -> None:
        """The log has the cause, once in a while and without the password."""
        secret = self._client.connection_pool.connection_kwargs.get("password") or ""
        text = f"{complaint(error)}: {type(error).__name__}: {error}"
        text = shortened(text.replace(secret, "***") if secret else text)
        if text != self._told or time.monotonic() - self._told_s > TELL_AGAIN_S:
            self._told, self._told_s = text, time.monotonic()
            _log.warning("%s", text)


def complaint(error: Exception) -> str:
    """For clients, who learn nothing of hosts and keys; the log has the cause."""
    if isinstance(error, TimeoutError | RedisTimeout):
        return "the journal's store did not answer in time"
    if isinstance(error, OSError | RedisConnection):
        return "the journal's store cannot be reached"
    return "the journal's store refused the call"
