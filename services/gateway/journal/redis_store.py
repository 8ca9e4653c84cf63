"""Sessions in Redis or Valkey: keys and what is asked of them. No state of its own.

A session is two hashes of one slot, `PREFIX:{SESSION}:head` and `:data`. Beside them lie hints in other
slots, written after them and mended by whoever notices: `PREFIX:request:...` (which session a request id
made), `PREFIX:leases` (when to look at a session's lease again), `PREFIX:running` (which have places) and per
tenant `:places` (its list), `:kept` and `:open` (until when a session is kept, and counted) and `:creating`
(until when a creation under way counts). Every key expires. Redis needs `maxmemory-policy noeviction`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from typing import Any

from redis.asyncio import Redis

from services.gateway.journal.base import Lease, fenced, list_key
from services.gateway.journal.codec import Update, difference
from services.gateway.journal.errors import (
    LeaseHeld,
    NoSuchSession,
    RequestConflict,
    SessionEnded,
    SessionTaken,
    StoreUnavailable,
    TooManyOpen,
)
from services.gateway.journal.record import NewSession, Record
from services.gateway.journal.redis_heads import BATCH
from services.gateway.journal.redis_keys import creating_key, request_key, session_keys, tenant_keys
from services.gateway.journal.redis_reads import RedisReads
from services.gateway.journal.redis_running import RedisRunning
from services.gateway.journal.scripts import CLAIM, COUNT_IN, DROP, PARK, PUT, PUT_BESIDE, RESERVE

CREATING_S = 15.0
"""More than the creation of a session takes."""
MAX_ROUNDS = 100
"""Batches in which one call looks for orphans, at most."""


class RedisStore(RedisRunning):
    """The calls of a journal; each raises StoreUnavailable when Redis does not answer, or refuses."""

    def __init__(
        self,
        client: Redis,
        prefix: str = "cascade",
        *,
        ttl_s: float = 3600.0,
        ended_ttl_s: float = 3600.0,
        call_timeout_s: float = 1.0,
        max_calls: int = 32,
        clock: Callable[[], float] | None = None,
        beside_bytes: int = 256 * 2**10,
    ) -> None:
        super().__init__(client, prefix, call_timeout_s, max_calls, clock)
        self._beside_bytes = beside_bytes
        """From this size on data goes beside the script: see `scripts.py`."""
        self.reads = RedisReads(client, prefix, clock)
        self.ttl_s = ttl_s
        """A session is forgotten when nobody writes or renews for that long."""
        self._ended_ttl_s = ended_ttl_s
        """And this long after its end."""

    async def close(self) -> None:
        await self.reads.close()
        await super().close()

    async def server(self) -> str:
        """Which process answers: another one after each start and each failover. Empty where it does not say,
        but it answers."""
        told = await self.ask("INFO", "server")
        return str(told.get("run_id", "")) if isinstance(told, dict) else ""

    async def reserve(self, new: NewSession) -> tuple[str, bool]:
        """(the session that this request is to have, whether an earlier try has chosen it).

        Raises RequestConflict.
        """
        if not new.request_id:
            return new.session, False
        key, ttl_ms = self._request_key(new.tenant, new.request_id), int(self.ttl_s * 1000)
        first = await self._script(RESERVE, (key,), _reservation(new), ttl_ms)
        session, digest = (first.decode() if first else _reservation(new)).split("/")
        if digest != new.digest():
            raise RequestConflict(f"request_id {new.request_id}: was used for another session")
        return session, first is not None

    async def find_request(self, tenant: str, request_id: str) -> str | None:
        """The session that this request is to have, if it came before."""
        found = await self._do("GET", self._request_key(tenant, request_id))
        return found.decode().split("/")[0] if found else None

    async def drop_reservation(self, new: NewSession) -> None:
        """Forget that this request was to have this session."""
        await self._script(DROP, (self._request_key(new.tenant, new.request_id),), _reservation(new))

    async def is_made(self, new: NewSession) -> bool:
        """Whether the session that this request is to have is there, by this very request."""
        return bool(await self._do("HGET", self._keys(new.session)[0], "digest") == new.digest().encode())

    @asynccontextmanager
    async def room(self, record: Record, max_open: int | None) -> AsyncIterator[None]:
        """For the creation of one more session of the tenant, which counts from here on, for CREATING_S where
        nobody learns what became of it. `max_open` None: there is room for any. Raises TooManyOpen."""
        if max_open is None:
            yield
            return
        tenant, attempt = record.tenant, f"{list_key(record)}/{token_hex(4)}"
        keys = (self._tenant_keys(tenant)[2], creating_key(self._prefix, tenant))
        ttl_ms = int(CREATING_S * 1000)
        num = await self._script(COUNT_IN, keys, attempt, record.session, max_open, ttl_ms, self._now())
        if num >= 0:
            raise TooManyOpen(tenant, num, max_open)
        try:
            yield
        except (StoreUnavailable, asyncio.CancelledError):
            raise  # it may be there
        except BaseException:
            await self._do("ZREM", keys[1], attempt)
            raise
        with suppress(StoreUnavailable):
            await self._do("ZREM", keys[1], attempt)

    async def create(self, lease: Lease, record: Record, lease_s: float) -> bool:
        """False: this very request has made the session before. Raises SessionTaken."""
        answer = await self._put("new", lease, 0, difference(None, record), lease_s)
        if answer[0] == b"ok":
            return True
        if not record.origin.request_id or answer[1] != record.origin.digest().encode():
            raise SessionTaken(lease.session)
        return False

    async def put(self, lease: Lease, base: int, update: Update, lease_s: float | None) -> int | None:
        """Store the update; returns when the lease ends (ms since 1970), or None where Redis lacks what a
        difference builds on: then send the whole. `lease_s` None: the lease stays as it is. Raises LeaseLost.
        """
        mode = "whole" if update.expected is None else "difference"
        answer = await self._put(mode, lease, base, update, lease_s)
        if answer[0] == b"fenced":
            raise fenced(lease, int(answer[1]))
        return int(answer[1]) if answer[0] == b"ok" else None

    async def claim(self, session: str, owner: str, lease_s: float, *, only_released: bool = False) -> Lease:
        """Raises NoSuchSession, SessionEnded, LeaseHeld."""
        times = (int(lease_s * 1000), self._now(), int(self.ttl_s * 1000))
        until_ms = await self.now_ms() + int(self.call_timeout_s * 1000)
        kinds = "released" if only_released else ""
        answer = await self._script(CLAIM, self._keys(session), owner, *times, kinds, until_ms)
        match answer:
            case [b"ok", epoch]:
                return Lease(session, owner, int(epoch))
            case [b"held", holder, left_ms]:
                raise LeaseHeld(session, holder.decode(), max(0.0, int(left_ms) / 1000))
            case [b"ended"]:
                raise SessionEnded(f"session {session}: has ended")
        raise NoSuchSession(f"session {session}: unknown or expired")

    async def note(self, record: Record, lease_until_ms: int) -> None:
        """Bring the hints up to date."""
        at, now_ms = list_key(record), await self.now_ms()
        ttl_ms = int((self._ended_ttl_s if record.end else self.ttl_s) * 1000)
        listing, kept, counted = self._tenant_keys(record.tenant)
        leases, alive = f"{self._prefix}:leases", not record.end
        found = await self._pipeline(
            ("ZRANGEBYSCORE", kept, "-inf", now_ms, "LIMIT", 0, 100),
            ("ZADD", listing, 0, at),
            ("ZADD", kept, now_ms + ttl_ms, at),
            ("ZADD", counted, now_ms + ttl_ms, at) if alive else ("ZREM", counted, at),
            ("ZADD", leases, lease_until_ms, record.session) if alive else ("ZREM", leases, record.session),
            ("ZREMRANGEBYSCORE", counted, "-inf", now_ms),
            *(("PEXPIRE", key, max(ttl_ms, int(self.ttl_s * 1000))) for key in (listing, kept, counted)),
            ("PEXPIRE", leases, int(self.ttl_s * 1000)),
            *self._request_notes(record.origin, ttl_ms),
        )
        expired = [member for member in found[0] if member != at.encode()]
        if expired:
            await self._pipeline(("ZREM", listing, *expired), ("ZREM", kept, *expired))

    async def num_open(self, tenant: str) -> int:
        counted = self._tenant_keys(tenant)[2]
        return int(await self._do("ZCOUNT", counted, f"({await self.now_ms()}", "+inf"))

    async def orphans(self, limit: int, *, only_released: bool = False) -> list[str]:
        """Looks at the leases that may have run out; those that were renewed are noted for later."""
        key, now_ms = f"{self._prefix}:leases", 0 if only_released else await self.now_ms()
        orphans: list[tuple[int, str]] = []
        for _ in range(MAX_ROUNDS):
            due = ("ZRANGEBYSCORE", key, "-inf", now_ms, "LIMIT", len(orphans), BATCH)
            found = [name.decode() for name in await self._do(*due)]
            fields = ("lease_ms", "end")
            rows = await self._pipeline(*(("HMGET", self._keys(name)[0], *fields) for name in found))
            changes: list[tuple[Any, ...]] = []
            for name, (until, end) in zip(found, rows, strict=True):
                if until is None or end:
                    changes.append(("ZREM", key, name))
                elif int(until) > now_ms:
                    changes.append(("ZADD", key, "XX", until, name))
                else:
                    orphans.append((int(until), name))
            await self._pipeline(*changes)
            if len(found) < BATCH or len(orphans) >= limit:
                break
        return [name for _, name in sorted(orphans)[:limit]]

    def _now(self) -> str:
        return str(int(self._clock() * 1000)) if self._clock else ""

    def _keys(self, session: str) -> tuple[str, str]:
        return session_keys(self._prefix, session)

    def _tenant_keys(self, tenant: str) -> tuple[str, str, str]:
        return tenant_keys(self._prefix, tenant)

    def _request_key(self, tenant: str, request_id: str) -> str:
        return request_key(self._prefix, tenant, request_id)

    def _request_notes(self, new: NewSession, ttl_ms: int) -> list[tuple[Any, ...]]:
        key = self._request_key(new.tenant, new.request_id)
        again = ("SET", key, _reservation(new), "NX", "PX", ttl_ms)
        return [again, ("PEXPIRE", key, ttl_ms)] if new.request_id else []

    async def _put(
        self, mode: str, lease: Lease, base: int, update: Update, lease_s: float | None
    ) -> list[bytes]:
        head = [part for item in update.head.items() for part in item]
        data = [part for item in update.data.items() for part in item]
        num_bytes = sum(map(len, update.data.values()))
        beside = data if mode == "difference" and num_bytes >= self._beside_bytes else []
        parts: tuple[Sequence[str | bytes], ...] = (
            head,
            [] if beside else data,
            update.old_head,
            update.old_data,
        )
        expected = "" if update.expected is None else update.expected
        fence = (lease.owner, lease.epoch, base, mode, expected, update.revision)
        arguments = (
            *fence,
            *("" if lease_s is None else int(lease_s * 1000), self._now()),
            int((self._ended_ttl_s if update.has_ended else self.ttl_s) * 1000),
            *(len(part) for part in parts),
            update.num_data,
            *(value for part in parts for value in part),
        )
        keys, num_bytes = self._keys(lease.session), num_bytes + sum(map(len, update.head.values()))
        if beside:
            return await self._put_beside(keys, beside, fence, arguments, num_bytes)
        answer: list[bytes] = await self._script(PUT, keys, *arguments, num_bytes=num_bytes)
        return answer

    async def _put_beside(
        self, keys: tuple[str, str], data: Sequence[Any], fence: Any, arguments: Any, num_bytes: int
    ) -> list[bytes]:
        """In one transaction. Scripts go as source: one that Redis did not know would fence nobody."""
        parked = f"{keys[1]}:parked"
        steps = (
            ("EVAL", PARK, 3, *keys, parked, *fence),
            ("HSET", keys[1], *data),
            ("EVAL", PUT_BESIDE, 3, *keys, parked, *arguments),
        )
        answer: list[bytes] = (await self._pipeline(*steps, is_atomic=True, num_bytes=num_bytes))[-1]
        return answer


def _reservation(new: NewSession) -> str:
    return f"{new.session}/{new.digest()}"
