"""The journal of a single gateway: nothing survives its process."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.journal.base import (
    Behind,
    Creation,
    Lease,
    Page,
    Summary,
    check_kept,
    check_limit,
    check_page_size,
    check_reserve,
    make_page_token,
    page_position,
    place,
)
from services.gateway.journal.changes import Change, apply
from services.gateway.journal.errors import Fenced, LeaseHeld, NoSuchSession, RequestConflict, SessionEnded
from services.gateway.journal.record import NewSession, Record, Segment, new_record


@dataclass
class _Held:
    record: Record
    owner: str
    epoch: int
    leased_until_s: float
    expires_s: float
    is_released: bool = False


class MemoryJournal:
    """A `Journal` in this process."""

    def __init__(
        self,
        *,
        max_total_bytes: int = 8 * 2**30,
        ttl_s: float = 3600.0,
        ended_ttl_s: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_total_bytes = max_total_bytes
        self._ttl_s = ttl_s
        """A session is forgotten when nobody writes or renews for that long."""
        self._ended_ttl_s = ended_ttl_s
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._requests: dict[tuple[str, str], str] = {}

    async def create(self, new: NewSession, owner: str, lease_s: float) -> Creation:
        self._purge()
        known = self._held.get(self._requests.get((new.tenant, new.request_id), new.session))
        if known is not None:
            if not known.record.origin.same_request(new):
                raise RequestConflict(f"request_id {new.request_id}: was used for another session")
            lease = await self._lease_of(known, owner, lease_s)
            return Creation(known.record.session, lease, is_new=False)
        check_reserve(self._reserved(), new.limits.max_bytes, self._max_total_bytes)
        now = self._clock()
        record = new_record(new, int(now * 1000))
        self._held[new.session] = _Held(record, owner, 1, now + lease_s, now + self._ttl_s)
        if new.request_id:
            self._requests[new.tenant, new.request_id] = new.session
        return Creation(new.session, Lease(new.session, owner, 1), is_new=True)

    async def claim(self, session: str, owner: str, lease_s: float) -> Lease:
        held = self._find(session)
        if held.record.end_reason:
            raise SessionEnded(f"session {session}: ended: {held.record.end_reason}")
        left_s = held.leased_until_s - self._clock()
        if held.owner != owner and left_s > 0:
            raise LeaseHeld(session, held.owner, left_s)
        held.owner, held.epoch, held.is_released = owner, held.epoch + 1, False
        self._touch(held, lease_s)
        return Lease(session, owner, held.epoch)

    async def renew(self, lease: Lease, lease_s: float) -> None:
        self._touch(self._owned(lease), lease_s)

    async def release(self, lease: Lease) -> None:
        held = self._owned(lease)
        held.is_released = True
        self._touch(held, 0.0)

    async def write(self, lease: Lease, *changes: Change) -> None:
        held = self._owned(lease)
        held.record = apply(held.record, *changes)
        held.expires_s = self._clock() + (self._ended_ttl_s if held.record.end_reason else self._ttl_s)

    async def load(self, session: str) -> Record:
        return self._find(session).record

    async def read_segments(self, session: str, after_sequence: int, limit: int) -> tuple[Segment, ...]:
        check_limit(limit)
        record = self._find(session).record
        check_kept(session, after_sequence, record.oldest_sequence)
        return record.read(after_sequence, limit)

    async def list_sessions(self, tenant: str, page_token: str = "", page_size: int = 100) -> Page:
        check_page_size(page_size)
        self._purge()
        position = page_position(page_token)
        places = sorted(
            (place(held.record.created_ms, session), held)
            for session, held in self._held.items()
            if held.record.origin.tenant == tenant
        )
        after = [(key, held) for key, held in places if key > position]
        page = tuple(_summary(held) for _, held in after[:page_size])
        return Page(page, make_page_token(after[page_size - 1][0]) if len(after) > page_size else "")

    async def orphans(self, limit: int) -> list[str]:
        self._purge()
        now = self._clock()
        without = sorted(
            (held.leased_until_s, session)
            for session, held in self._held.items()
            if held.leased_until_s <= now and not held.record.end_reason
        )
        return [session for _, session in without[:limit]]

    def behind(self) -> Behind:
        return Behind()

    async def close(self) -> None:
        """Nothing to store."""

    def _find(self, session: str) -> _Held:
        held = self._held.get(session)
        if held is None or held.expires_s <= self._clock():
            raise NoSuchSession(f"session {session}: unknown or expired")
        return held

    def _owned(self, lease: Lease) -> _Held:
        held = self._find(lease.session)
        if held.record.end_reason:
            raise Fenced(f"session {lease.session}: ended: {held.record.end_reason}")
        if (held.owner, held.epoch, held.is_released) != (lease.owner, lease.epoch, False):
            raise Fenced(
                f"session {lease.session}: epoch {lease.epoch} of {lease.owner} is over, "
                f"{held.owner} has it with epoch {held.epoch}"
            )
        return held

    async def _lease_of(self, held: _Held, owner: str, lease_s: float) -> Lease | None:
        """For a creation asked again."""
        if held.owner != owner or held.record.end_reason:
            return None
        session = held.record.session
        return (
            await self.claim(session, owner, lease_s)
            if held.is_released
            else Lease(session, owner, held.epoch)
        )

    def _touch(self, held: _Held, lease_s: float) -> None:
        now = self._clock()
        held.leased_until_s, held.expires_s = now + lease_s, now + self._ttl_s

    def _reserved(self) -> int:
        records = [held.record for held in self._held.values()]
        return sum(
            record.num_bytes if record.end_reason else record.origin.limits.max_bytes for record in records
        )

    def _purge(self) -> None:
        now = self._clock()
        for session in [session for session, held in self._held.items() if held.expires_s <= now]:
            origin = self._held.pop(session).record.origin
            self._requests.pop((origin.tenant, origin.request_id), None)


def _summary(held: _Held) -> Summary:
    record = held.record
    return Summary(
        record.session, record.origin.tenant, record.created_ms, held.owner, held.epoch, record.end_reason
    )
