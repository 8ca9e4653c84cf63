"""The journal of a single gateway: nothing survives its process."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from services.gateway.journal.base import (
    Behind,
    Creation,
    Lease,
    Page,
    Summary,
    check_page,
    check_reserve,
    fenced,
    list_key,
    num_fitting,
)
from services.gateway.journal.changes import Change
from services.gateway.journal.errors import (
    LeaseHeld,
    NoSuchSession,
    RequestConflict,
    SessionEnded,
    SessionTaken,
    TooManyOpen,
)
from services.gateway.journal.record import NewSession, Record, new_record
from services.gateway.journal.rules import apply
from services.gateway.journal.running import RunningSession


@dataclass
class _Held:
    record: Record
    lease: Lease
    lease_s: float
    leased_until_s: float
    expires_s: float
    is_released: bool = False


class MemoryJournal:
    """A `Journal` in this process."""

    is_connected = True
    may_evict = False

    def __init__(
        self,
        *,
        max_total_bytes: int = 8 * 2**30,
        ttl_s: float = 3600.0,
        ended_ttl_s: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_total_bytes = max_total_bytes
        self._ttl_s = ttl_s
        """A session is forgotten when nobody writes or renews for that long."""
        self._ended_ttl_s = ended_ttl_s
        """And this long after its end."""
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._requests: dict[tuple[str, str], str] = {}

    async def start(self) -> None:
        """Nothing to look at."""

    async def create(
        self, new: NewSession, owner: str, lease_s: float, max_open: int | None = None
    ) -> Creation:
        self._purge()
        earlier = self._requests.get((new.tenant, new.request_id))
        if earlier:
            if self._held[earlier].record.origin.digest() != new.digest():
                raise RequestConflict(f"request_id {new.request_id}: was used for another session")
            return Creation(earlier, None, is_new=False)
        if new.session in self._held:
            raise SessionTaken(new.session)
        if max_open is not None and (num_open := self._num_open(new.tenant)) >= max_open:
            raise TooManyOpen(new.tenant, num_open, max_open)
        self._check_reserve(new.limits.max_bytes)
        now, lease = self._clock(), Lease(new.session, owner, 1)
        record = new_record(new, int(now * 1000))
        self._held[new.session] = _Held(record, lease, lease_s, now + lease_s, now + self._ttl_s)
        if new.request_id:
            self._requests[new.tenant, new.request_id] = new.session
        return Creation(new.session, lease, is_new=True)

    async def look(self) -> None:
        """It is always there."""

    async def claim(self, session: str, owner: str, lease_s: float) -> Lease:
        held = self._find(session)
        if held.record.end:
            raise SessionEnded(f"session {session}: has ended")
        left_s = held.leased_until_s - self._clock()
        if held.lease.owner != owner and left_s > 0:
            raise LeaseHeld(session, held.lease.owner, left_s)
        held.lease, held.is_released = Lease(session, owner, held.lease.epoch + 1), False
        self._touch(held, lease_s)
        return held.lease

    async def advance(self, lease: Lease, lease_s: float) -> Lease:
        held = self._owned(lease)
        held.lease = replace(lease, epoch=lease.epoch + 1)
        self._touch(held, lease_s)
        return held.lease

    async def renew(self, lease: Lease, lease_s: float) -> None:
        self._touch(self._owned(lease), lease_s)

    def is_leased(self, lease: Lease, seconds: float) -> bool:
        held = self._held.get(lease.session)
        return held is not None and held.lease == lease and held.leased_until_s >= self._clock() + seconds

    async def release(self, lease: Lease) -> None:
        held = self._owned(lease)
        held.is_released = True
        self._touch(held, 0.0)

    async def find_request(self, tenant: str, request_id: str) -> str | None:
        self._purge()
        return self._requests.get((tenant, request_id))

    async def write(self, lease: Lease, *changes: Change, is_urgent: bool = True) -> Record:
        held = self._owned(lease)
        after = apply(held.record, *changes)
        self._check_reserve(after.limits.max_bytes - held.record.limits.max_bytes)
        if after is not held.record:
            held.record = after
            self._touch(held, held.lease_s)
        return after

    async def load(self, session: str) -> Record:
        return self._find(session).record

    async def head(self, session: str) -> Record:
        return replace(self._find(session).record, latents={}, segments=())

    async def summary(self, session: str) -> Summary:
        return self._summary(self._find(session))

    async def list_sessions(self, tenant: str, page_token: str = "", page_size: int = 50) -> Page:
        check_page(page_token, page_size)
        self._purge()
        listed = sorted(((list_key(held.record), held) for held in self._of(tenant)), reverse=True)
        after = [(at, held) for at, held in listed if not page_token or at < page_token]
        summaries = [self._summary(held) for _, held in after[:page_size]]
        num = num_fitting(summary.record.brief_bytes for summary in summaries)
        return Page(tuple(summaries[:num]), after[num - 1][0] if num < len(after) else "")

    async def num_open(self, tenant: str) -> int:
        self._purge()
        return self._num_open(tenant)

    async def orphans(self, limit: int) -> list[str]:
        self._purge()
        now = self._clock()
        without = sorted(
            (held.leased_until_s, session)
            for session, held in self._held.items()
            if held.leased_until_s <= now and not held.record.end
        )
        return [session for _, session in without[:limit]]

    def clock(self) -> float:
        return self._clock()

    async def share_running(
        self, mine: Collection[RunningSession], over: Collection[str]
    ) -> list[RunningSession]:
        return list(mine)

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
        held = self._held.get(lease.session)
        if held is None or held.lease != lease or held.is_released or held.record.end:
            raise fenced(lease, held.lease.epoch if held else lease.epoch)
        return held

    def _of(self, tenant: str) -> list[_Held]:
        return [held for held in self._held.values() if held.record.tenant == tenant]

    def _num_open(self, tenant: str) -> int:
        return sum(not held.record.end for held in self._of(tenant))

    def _summary(self, held: _Held) -> Summary:
        left_s = 0.0 if held.record.end else max(0.0, held.leased_until_s - self._clock())
        return Summary(held.record.brief(), held.lease.owner, held.lease.epoch, left_s)

    def _touch(self, held: _Held, lease_s: float) -> None:
        now, ttl_s = self._clock(), self._ended_ttl_s if held.record.end else self._ttl_s
        held.lease_s, held.leased_until_s, held.expires_s = lease_s, now + lease_s, now + ttl_s

    def _check_reserve(self, wanted: int) -> None:
        if wanted > 0:
            records = [held.record for held in self._held.values()]
            reserved = sum(record.num_bytes if record.end else record.limits.max_bytes for record in records)
            check_reserve(reserved, wanted, self._max_total_bytes)

    def _purge(self) -> None:
        now = self._clock()
        for session in [session for session, held in self._held.items() if held.expires_s <= now]:
            origin = self._held.pop(session).record.origin
            if origin.request_id:
                del self._requests[origin.tenant, origin.request_id]
