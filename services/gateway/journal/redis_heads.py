"""Reads of sessions, in brief or whole; and Redis's clock."""

import time
from collections.abc import Callable, Sequence

from pydantic import ValidationError
from redis.asyncio import Redis

from services.gateway.journal.base import Summary
from services.gateway.journal.codec import BRIEF_FIELDS, Fields, decode, decode_brief, stored_data
from services.gateway.journal.errors import NoSuchSession, StoreUnavailable, Unreadable
from services.gateway.journal.record import Record
from services.gateway.journal.redis_calls import RedisCalls
from services.gateway.journal.redis_keys import session_keys

BATCH = 50
"""Sessions asked for in one round trip."""
CLOCK_S = 10.0
"""Between two looks at Redis's clock."""


class RedisHeads(RedisCalls):
    """Calls that every reader of the journal makes."""

    def __init__(
        self,
        client: Redis,
        prefix: str,
        call_timeout_s: float,
        max_calls: int,
        clock: Callable[[], float] | None,
    ) -> None:
        """`clock` None: leases run by the server's clock, so those of the gateways need not agree."""
        super().__init__(client, call_timeout_s, max_calls)
        self._prefix = prefix
        self._clock = clock
        self._ahead_s: float | None = None
        """By how much Redis's clock is ahead of our monotonic one. None: it has not told yet."""
        self._ask_again_s = float("-inf")

    async def summaries(self, sessions: Sequence[str]) -> list[Summary | None]:
        """None: unknown or expired."""
        found: list[Summary | None] = []
        for first in range(0, len(sessions), BATCH):
            heads = await self._briefs(sessions[first : first + BATCH])
            now_ms = await self.now_ms()
            found += [_summary(head, now_ms) if b"created_ms" in head else None for head in heads]
        return found

    async def load(self, session: str) -> Record:
        head, data = await self._read(session, session_keys(self._prefix, session))
        if not head or len(data) != stored_data(head)[0]:
            raise NoSuchSession(f"session {session}: unknown or expired")
        return _record_of(session, head, data)

    async def head(self, session: str) -> Record:
        """Without latents and segments."""
        (head,) = await self._read(session, session_keys(self._prefix, session)[:1])
        if not head:
            raise NoSuchSession(f"session {session}: unknown or expired")
        return _record_of(session, head, {})

    async def _read(self, session: str, keys: Sequence[str]) -> list[dict[bytes, bytes]]:
        """What these hashes of the session hold, at one moment."""
        known = await self._do("HGET", session_keys(self._prefix, session)[0], "cursors")
        size = stored_data({b"cursors": known})[1] if known else 0
        return await self._pipeline(*(("HGETALL", key) for key in keys), is_atomic=True, num_bytes=size)

    async def now_ms(self) -> int:
        """Redis's clock, asked for every ten seconds: what gateways share goes by no gateway's own clock."""
        if self._clock:
            return int(self._clock() * 1000)
        if time.monotonic() >= self._ask_again_s:
            seconds, micros = await self._do("TIME")
            now_s = time.monotonic()
            self._ahead_s, self._ask_again_s = int(seconds) + int(micros) / 1e6 - now_s, now_s + CLOCK_S
        return int(self.last_known_s() * 1000)

    def last_known_s(self) -> float:
        """Redis's clock, without asking it again. Raises StoreUnavailable until it has told."""
        if self._clock:
            return self._clock()
        if self._ahead_s is None:
            raise StoreUnavailable("the journal's store has not told the time yet")
        return time.monotonic() + self._ahead_s

    async def _briefs(self, sessions: Sequence[str]) -> list[dict[bytes, bytes]]:
        """What there is of BRIEF_FIELDS; and the whole origin where a former release wrote it alone."""
        keys = [session_keys(self._prefix, session)[0] for session in sessions]
        rows = await self._pipeline(*(("HMGET", key, *BRIEF_FIELDS) for key in keys))
        names = [name.encode() for name in BRIEF_FIELDS]
        heads = [
            {name: value for name, value in zip(names, row, strict=True) if value is not None} for row in rows
        ]
        without = [place for place, head in enumerate(heads) if head and b"brief" not in head]
        origins = await self._pipeline(*(("HGET", keys[place], "origin") for place in without))
        for place, origin in zip(without, origins, strict=True):
            heads[place] = heads[place] | {b"origin": origin} if origin else {}
        return heads


def _record_of(session: str, head: Fields, data: Fields) -> Record:
    try:
        return decode(head, data)
    except ValidationError:
        raise Unreadable(session) from None


def _summary(head: Fields, now_ms: int) -> Summary:
    record = decode_brief(head)
    left_s = 0.0 if record.end else max(0.0, (int(head[b"lease_ms"]) - now_ms) / 1000)
    return Summary(record, head[b"owner"].decode(), int(head[b"epoch"]), left_s)
