"""Sessions in Redis or Valkey: keys, encoding, and one deadline on every call. No state of its own."""

import asyncio
import hashlib
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from services.gateway.journal.base import Lease, Page, Summary, make_page_token, page_position, place
from services.gateway.journal.errors import (
    Fenced,
    JournalUnavailable,
    LeaseHeld,
    NoSuchSession,
    SessionEnded,
)
from services.gateway.journal.record import Cursors, NewSession, Prompt, Record, Segment
from services.gateway.journal.scripts import CLAIM, RENEW, WRITE

_ORIGIN = TypeAdapter(NewSession)
_PROMPTS = TypeAdapter(tuple[Prompt, ...])
_CURSORS = TypeAdapter(Cursors)
_SEGMENT = struct.Struct(">qqq")
"""Block, presentation ticks, duration ticks; the data follow."""
_SUMMARY = ("tenant", "created_ms", "owner", "epoch", "end_reason")


@dataclass(frozen=True)
class Update:
    """What a write stores: the difference of two records, or the whole of one."""

    expected_revision: int
    record: Record
    is_whole: bool
    fields: Mapping[str, bytes | str]
    latents: Mapping[int, bytes]
    segments: tuple[Segment, ...]
    old_latents: tuple[int, ...]
    old_segments: tuple[int, ...]


def difference(stored: Record | None, record: Record) -> Update:
    """What brings the stored record up to this one; None: nothing is stored."""
    if stored is None:
        fields = {
            "origin": _ORIGIN.dump_json(record.origin),
            "tenant": record.origin.tenant,
            "created_ms": str(record.created_ms),
            **_changing(record),
        }
        return Update(0, record, True, fields, record.latents, record.segments, (), ())
    before = _changing(stored)
    return Update(
        stored.revision,
        record,
        False,
        {name: value for name, value in _changing(record).items() if before[name] != value},
        {block: data for block, data in record.latents.items() if block not in stored.latents},
        record.read(stored.cursors.next_sequence - 1, len(record.segments)),
        tuple(block for block in stored.latents if block not in record.latents),
        tuple(range(stored.oldest_sequence, min(record.oldest_sequence, stored.cursors.next_sequence))),
    )


def connect(url: str, *, cluster: bool = False, call_timeout_s: float = 2.0) -> Redis | RedisCluster:
    """A client for `redis://`, `rediss://` (TLS) or `unix://`; the journal retries, the client does not."""
    options: dict[str, Any] = {
        "socket_timeout": call_timeout_s,
        "socket_connect_timeout": call_timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
    }
    return RedisCluster.from_url(url, **options) if cluster else Redis.from_url(url, **options)


class RedisStore:
    """The calls of a journal; each raises JournalUnavailable when Redis does not answer, or refuses."""

    def __init__(
        self,
        client: Redis | RedisCluster,
        *,
        prefix: str = "cascade",
        ttl_s: float = 3600.0,
        ended_ttl_s: float = 300.0,
        call_timeout_s: float = 2.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._ttl_ms = int(ttl_s * 1000)
        """Every key lives that long after its last write or renewal."""
        self._ended_ttl_ms = int(ended_ttl_s * 1000)
        self._call_timeout_s = call_timeout_s
        self._clock = clock
        """None: leases run by the server's clock, so those of the gateways need not agree."""

    async def ping(self) -> None:
        await self._do("PING")

    async def reserve_request(self, new: NewSession) -> str:
        """The session that belongs to the request id: this one, or the one that came first."""
        if not new.request_id:
            return new.session
        key = f"{self._prefix}:request:{new.tenant}:{new.request_id}"
        if await self._do("SET", key, new.session, "NX", "PX", self._ttl_ms):
            return new.session
        first = await self._do("GET", key)
        return first.decode() if first else new.session

    async def write(self, lease: Lease, base: int, update: Update, lease_s: float) -> bool:
        """Store the update in one round trip; False: Redis lacks what it builds on, send the whole."""
        packed: tuple[Sequence[object], ...] = (
            [part for item in update.fields.items() for part in item],
            [part for item in update.latents.items() for part in item],
            [part for segment in update.segments for part in (segment.sequence, _pack(segment))],
            update.old_latents,
            update.old_segments,
        )
        ttl_ms = self._ended_ttl_ms if update.record.end_reason else self._ttl_ms
        answer = await self._script(
            WRITE,
            lease.session,
            *(lease.owner, lease.epoch, base, update.expected_revision, update.record.revision),
            *(int(update.is_whole), int(lease_s * 1000), self._now(), ttl_ms),
            *(len(parts) for parts in packed),
            *(part for parts in packed for part in parts),
        )
        return self._passed(lease, answer)

    async def claim(self, session: str, owner: str, lease_s: float) -> Lease:
        answer = await self._script(CLAIM, session, owner, int(lease_s * 1000), self._now(), self._ttl_ms)
        match answer:
            case [b"ok", epoch, until]:
                await self._pipeline(*self._lease_notes(session, until))
                return Lease(session, owner, int(epoch))
            case [b"held", holder, left_ms]:
                raise LeaseHeld(session, holder.decode(), int(left_ms) / 1000)
            case [b"ended", reason]:
                raise SessionEnded(f"session {session}: ended: {reason.decode()}")
        raise NoSuchSession(f"session {session}: unknown or expired")

    async def renew(self, lease: Lease, base: int, lease_s: float, at: str) -> bool:
        """False: Redis does not have the session, send the whole. `at` is its place in the tenant's list."""
        answer = await self._script(
            RENEW,
            lease.session,
            *(lease.owner, lease.epoch, base, int(lease_s * 1000), self._now(), self._ttl_ms),
        )
        if not self._passed(lease, answer):
            return False
        await self._pipeline(*self._lease_notes(lease.session, answer[1]), *self._place_notes(at))
        return True

    async def owner(self, session: str) -> str:
        """Who claimed it last; empty: unknown."""
        found = await self._do("HGET", self._keys(session)[0], "owner")
        return found.decode() if found else ""

    async def forget_lease(self, session: str) -> None:
        await self._do("ZREM", f"{self._prefix}:leases", session)

    async def note_place(self, at: str) -> None:
        """Put the session in its tenant's list: `TENANT:PLACE`."""
        await self._pipeline(*self._place_notes(at))

    async def load(self, session: str) -> Record:
        fields, latents, segments = await self._pipeline(
            *(("HGETALL", key) for key in self._keys(session)), is_atomic=True
        )
        if b"origin" not in fields:
            raise NoSuchSession(f"session {session}: unknown or expired")
        return Record(
            origin=_ORIGIN.validate_json(fields[b"origin"]),
            created_ms=int(fields[b"created_ms"]),
            prompts=_PROMPTS.validate_json(fields[b"prompts"]),
            cursors=_CURSORS.validate_json(fields[b"cursors"]),
            latents=dict(sorted((int(key), data) for key, data in latents.items())),
            segments=tuple(_unpack(int(key), segments[key]) for key in sorted(segments, key=int)),
            end_reason=fields[b"end_reason"].decode(),
            revision=int(fields[b"revision"]),
        )

    async def read_segments(
        self, session: str, after_sequence: int, limit: int
    ) -> tuple[Cursors, tuple[Segment, ...]]:
        """The session's cursors, and those of the next `limit` segments that are kept."""
        key, _, segments_key = self._keys(session)
        wanted = range(after_sequence + 1, after_sequence + 1 + limit)
        cursors, found = await self._pipeline(
            ("HGET", key, "cursors"), ("HMGET", segments_key, *wanted), is_atomic=True
        )
        if cursors is None:
            raise NoSuchSession(f"session {session}: unknown or expired")
        kept = tuple(_unpack(number, data) for number, data in zip(wanted, found, strict=True) if data)
        return _CURSORS.validate_json(cursors), kept

    async def oldest_sequence(self, session: str) -> int:
        """Of the segments kept."""
        return min(map(int, await self._do("HKEYS", self._keys(session)[2])), default=0)

    async def list_sessions(self, tenant: str, token: str, page_size: int) -> Page:
        key, position = self._tenant_key(tenant), page_position(token)
        start = f"({position}" if position else "-"
        found = [
            member.decode()
            for member in await self._do("ZRANGEBYLEX", key, start, "+", "LIMIT", 0, page_size + 1)
        ]
        page, more = found[:page_size], len(found) > page_size
        names = [member.split("/", 1)[1] for member in page]
        rows = await self._pipeline(*(("HMGET", self._keys(name)[0], *_SUMMARY) for name in names))
        gone = [member for member, row in zip(page, rows, strict=True) if row[0] is None]
        if gone:
            await self._do("ZREM", key, *gone)
        sessions = tuple(
            Summary(name, row[0].decode(), int(row[1]), row[2].decode(), int(row[3]), row[4].decode())
            for name, row in zip(names, rows, strict=True)
            if row[0] is not None
        )
        return Page(sessions, make_page_token(page[-1]) if more else "")

    async def orphans(self, limit: int) -> list[str]:
        now = self._now()
        if not now:
            seconds, micros = await self._do("TIME")
            now = str(int(seconds) * 1000 + int(micros) // 1000)
        key = f"{self._prefix}:leases"
        found = await self._do("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, limit)
        rows = await self._pipeline(
            *(("HMGET", self._keys(name.decode())[0], "tenant", "end_reason") for name in found)
        )
        is_alive = [tenant is not None and not reason for tenant, reason in rows]
        gone = [name for name, alive in zip(found, is_alive, strict=True) if not alive]
        if gone:
            await self._do("ZREM", key, *gone)
        return [name.decode() for name, alive in zip(found, is_alive, strict=True) if alive]

    async def close(self) -> None:
        await self._client.aclose()

    def created_ms(self) -> int:
        return int((self._clock or time.time)() * 1000)

    def _now(self) -> str:
        return str(int(self._clock() * 1000)) if self._clock else ""

    def _keys(self, session: str) -> tuple[str, str, str]:
        tag = f"{self._prefix}:{{{session}}}"
        return f"{tag}:session", f"{tag}:latents", f"{tag}:segments"

    def _tenant_key(self, tenant: str) -> str:
        return f"{self._prefix}:tenant:{tenant}"

    def _lease_notes(self, session: str, until_ms: bytes) -> list[tuple[Any, ...]]:
        """For `orphans`: a hint only, since it lies in another slot than the session."""
        key = f"{self._prefix}:leases"
        return [("ZADD", key, until_ms, session), ("PEXPIRE", key, self._ttl_ms)]

    def _place_notes(self, at: str) -> list[tuple[Any, ...]]:
        tenant, position = at.split(":", 1)
        key = self._tenant_key(tenant)
        return [("ZADD", key, 0, position), ("PEXPIRE", key, self._ttl_ms)]

    def _passed(self, lease: Lease, answer: list[bytes]) -> bool:
        if answer[0] == b"fenced":
            raise Fenced(
                f"session {lease.session}: epoch {lease.epoch} of {lease.owner} is over, "
                f"{answer[1].decode()} has it with epoch {answer[2].decode()}"
            )
        return answer[0] == b"ok"

    async def _script(self, source: str, session: str, *arguments: Any) -> Any:
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        given = (3, *self._keys(session), *arguments)
        try:
            return await self._do("EVALSHA", sha, *given)
        except _NoScript:
            return await self._do("EVAL", source, *given)

    async def _do(self, *command: Any) -> Any:
        try:
            async with asyncio.timeout(self._call_timeout_s):
                return await self._client.execute_command(*command)
        except NoScriptError:
            raise _NoScript from None
        except (RedisError, OSError, TimeoutError) as error:
            raise JournalUnavailable(f"Redis: {error or type(error).__name__}") from error

    async def _pipeline(self, *commands: tuple[Any, ...], is_atomic: bool = False) -> Any:
        if not commands:
            return []
        try:
            async with asyncio.timeout(self._call_timeout_s):
                pipeline = self._client.pipeline(transaction=is_atomic)
                for command in commands:
                    pipeline.execute_command(*command)
                return await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise JournalUnavailable(f"Redis: {error or type(error).__name__}") from error


class _NoScript(Exception):
    """The server does not know the script yet: it is new, or was restarted."""


def place_of(record: Record) -> str:
    """A session's entry for `note_place`."""
    return f"{record.origin.tenant}:{place(record.created_ms, record.session)}"


def _changing(record: Record) -> dict[str, bytes | str]:
    return {
        "prompts": _PROMPTS.dump_json(record.prompts),
        "cursors": _CURSORS.dump_json(record.cursors),
        "end_reason": record.end_reason,
    }


def _pack(segment: Segment) -> bytes:
    return _SEGMENT.pack(segment.block, segment.presentation_ticks, segment.duration_ticks) + segment.data


def _unpack(sequence: int, packed: bytes) -> Segment:
    block, presentation, duration = _SEGMENT.unpack_from(packed)
    return Segment(sequence, block, packed[_SEGMENT.size :], presentation, duration)
