"""What no running session waits for: lists, and whole sessions that have ended. Its connections, turns and
deadlines are its own."""

from collections.abc import Callable, Sequence

from redis.asyncio import ConnectionPool, Redis

from services.gateway.journal.base import Page, num_fitting
from services.gateway.journal.redis_heads import BATCH, RedisHeads
from services.gateway.journal.redis_keys import session_keys, tenant_keys

CALL_TIMEOUT_S = 3.0
MAX_CALLS = 8
OTHER_BYTES = 1000
"""Of a head, beside the fields that `_sizes` asks for."""


class RedisReads(RedisHeads):
    """Reads that may be large, beside the calls that keep sessions going."""

    def __init__(self, client: Redis, prefix: str, clock: Callable[[], float] | None) -> None:
        """`client`: names the Redis; the connections are our own."""
        pool = client.connection_pool
        own = ConnectionPool(pool.connection_class, **pool.connection_kwargs)
        super().__init__(Redis.from_pool(own), prefix, CALL_TIMEOUT_S, MAX_CALLS, clock)

    async def list_sessions(self, tenant: str, page_token: str, page_size: int) -> Page:
        listing, kept, counted = tenant_keys(self._prefix, tenant)
        start = f"({page_token}" if page_token else "+"
        found = await self._do("ZREVRANGEBYLEX", listing, start, "-", "LIMIT", 0, page_size + 1)
        members = [member.decode() for member in found]
        sizes = await self._sizes([session_of(member) for member in members[:page_size]])
        page = members[: num_fitting(sizes)]
        sessions = await self.summaries([session_of(member) for member in page])
        gone = [member for member, summary in zip(page, sessions, strict=True) if summary is None]
        if gone:
            await self._pipeline(*(("ZREM", key, *gone) for key in (listing, kept, counted)))
        return Page(tuple(filter(None, sessions)), page[-1] if len(page) < len(members) else "")

    async def _sizes(self, sessions: Sequence[str]) -> list[int]:
        """Bytes that `summaries` reads of each."""
        sizes: list[int] = []
        for first in range(0, len(sessions), BATCH):
            keys = [session_keys(self._prefix, session)[0] for session in sessions[first : first + BATCH]]
            fields = ("brief", "origin", "n/unknown_words")
            asked = [("HSTRLEN", key, field) for key in keys for field in fields]
            found = iter(await self._pipeline(*asked))
            rows = zip(found, found, found, strict=True)
            sizes += [(brief or origin) + words + OTHER_BYTES for brief, origin, words in rows]
        return sizes


def session_of(member: str) -> str:
    """`CREATED/SESSION` -> `SESSION`."""
    return member.split("/")[1]
