"""The journal of several gateways: an owner keeps its sessions' records in memory, Redis has a copy of each.

So a session goes on while Redis is gone, and can be rebuilt by its owner meanwhile. What Redis lacks is the
difference of two records, at most one record: nothing piles up, and old latents and segments give way to
newer ones by the same rules as ever. When Redis is back, each session's difference is stored in one atomic
step; if Redis came back with less than it had, the whole record is.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from services.gateway.journal.base import (
    Behind,
    Creation,
    Lease,
    Page,
    check_kept,
    check_limit,
    check_page_size,
    check_reserve,
)
from services.gateway.journal.changes import Change, apply
from services.gateway.journal.errors import (
    Fenced,
    JournalFull,
    JournalUnavailable,
    NoSuchSession,
    RequestConflict,
    SessionEnded,
)
from services.gateway.journal.record import NewSession, Record, Segment, new_record
from services.gateway.journal.redis_store import RedisStore, difference, place_of

_log = logging.getLogger(__name__)


@dataclass
class _Copy:
    """A session that is owned here."""

    lease: Lease
    base: int
    """The last epoch known to be stored."""
    lease_s: float
    record: Record
    stored: Record | None
    """What Redis has; None: nothing, or nobody knows."""
    changed_s: float = 0.0
    """When the first change that is not stored was made."""
    wants_renewal: bool = False
    fenced: Fenced | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def num_missing(self) -> int:
        """Changes that Redis lacks."""
        if self.fenced or self.stored is self.record:
            return 0
        return max(1, self.record.revision - (self.stored.revision if self.stored else 0))

    @property
    def is_over(self) -> bool:
        """Ended or released: forgotten here once Redis has it."""
        return bool(self.record.end_reason) or self.lease_s == 0

    @property
    def is_behind(self) -> bool:
        return not self.fenced and (self.stored is not self.record or self.wants_renewal)


class ReplicatedJournal:
    """A `Journal` whose owned sessions outlive this process, in Redis.

    While Redis is gone, sessions owned here go on and may be claimed again here; creating a session, claiming
    one of somebody else and reading one of somebody else raise JournalUnavailable.
    """

    def __init__(
        self,
        store: RedisStore,
        *,
        max_total_bytes: int = 8 * 2**30,
        retry_s: tuple[float, float] = (0.1, 5.0),
        takeover_grace_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._max_total_bytes = max_total_bytes
        self._retry_s = retry_s
        """First and longest pause between two tries while Redis is gone; drawn from the upper half."""
        self._takeover_grace_s = takeover_grace_s
        """After an outage seen here nobody's session is an orphan for that long: owners renew first."""
        self._clock = clock
        self._copies: dict[str, _Copy] = {}
        self._catching_up: asyncio.Task[None] | None = None
        self._back_s = float("-inf")

    @property
    def is_connected(self) -> bool:
        """Whether Redis has answered the last call, and has everything written here."""
        return self._catching_up is None

    async def create(self, new: NewSession, owner: str, lease_s: float) -> Creation:
        self._check_reserve(new)
        new = replace(new, session=await self._store.reserve_request(new))
        with suppress(NoSuchSession):
            known = await self.load(new.session)
            if not known.origin.same_request(new):
                raise RequestConflict(f"request_id {new.request_id}: was used for another session")
            return Creation(new.session, await self._lease_of(new.session, owner, lease_s), is_new=False)
        record = new_record(new, self._store.created_ms())
        lease = Lease(new.session, owner, 1)
        await self._store.note_place(place_of(record))
        try:
            await self._store.write(lease, 0, difference(None, record), lease_s)
        except Fenced:
            return Creation(new.session, None, is_new=False)
        self._copies[new.session] = _Copy(lease, 1, lease_s, record, record)
        await self._store.renew(lease, 1, lease_s, place_of(record))
        return Creation(new.session, lease, is_new=True)

    async def claim(self, session: str, owner: str, lease_s: float) -> Lease:
        copy = self._copies.get(session)
        if copy is None or copy.lease.owner != owner or copy.fenced:
            return await self._take(session, owner, lease_s)
        if copy.record.end_reason:
            raise SessionEnded(f"session {session}: ended: {copy.record.end_reason}")
        async with copy.lock:
            copy.lease = replace(copy.lease, epoch=copy.lease.epoch + 1)
            lease = copy.lease
        try:
            await self.renew(lease, lease_s)
        except Fenced:
            return await self._take(session, owner, lease_s)
        return lease

    async def renew(self, lease: Lease, lease_s: float) -> None:
        copy = self._owned(lease)
        copy.lease_s, copy.wants_renewal = lease_s, True
        await self._replicate(copy)

    async def release(self, lease: Lease) -> None:
        await self.renew(lease, 0.0)

    async def write(self, lease: Lease, *changes: Change) -> None:
        copy = self._owned(lease)
        before, copy.record = copy.record, apply(copy.record, *changes)
        if before is copy.stored and copy.record is not before:
            copy.changed_s = self._clock()
        await self._replicate(copy)

    async def load(self, session: str) -> Record:
        copy = self._copies.get(session)
        return copy.record if copy and not copy.fenced else await self._store.load(session)

    async def read_segments(self, session: str, after_sequence: int, limit: int) -> tuple[Segment, ...]:
        check_limit(limit)
        copy = self._copies.get(session)
        if copy and not copy.fenced:
            check_kept(session, after_sequence, copy.record.oldest_sequence)
            return copy.record.read(after_sequence, limit)
        cursors, found = await self._store.read_segments(session, after_sequence, limit)
        if after_sequence + 1 < cursors.next_sequence and (
            not found or found[0].sequence != after_sequence + 1
        ):
            check_kept(session, after_sequence, await self._store.oldest_sequence(session))
        return found

    async def list_sessions(self, tenant: str, page_token: str = "", page_size: int = 100) -> Page:
        check_page_size(page_size)
        return await self._store.list_sessions(tenant, page_token, page_size)

    async def orphans(self, limit: int) -> list[str]:
        if not self.is_connected or self._clock() < self._back_s + self._takeover_grace_s:
            return []
        return await self._store.orphans(limit)

    def behind(self) -> Behind:
        late = [copy for copy in self._copies.values() if copy.num_missing]
        if not late:
            return Behind()
        oldest_s = min(copy.changed_s for copy in late)
        return Behind(sum(copy.num_missing for copy in late), len(late), self._clock() - oldest_s)

    async def close(self) -> None:
        if self._catching_up:
            self._catching_up.cancel()
            await asyncio.gather(self._catching_up, return_exceptions=True)
        with suppress(JournalUnavailable):
            for copy in [copy for copy in self._copies.values() if copy.is_behind]:
                with suppress(Fenced):
                    await self._push(copy)
        await self._store.close()

    def _check_reserve(self, new: NewSession) -> None:
        held = sum(copy.record.origin.limits.max_bytes for copy in self._copies.values())
        check_reserve(held, new.limits.max_bytes, self._max_total_bytes)

    async def _lease_of(self, session: str, owner: str, lease_s: float) -> Lease | None:
        """For a creation asked again: the owner's lease; a new one where its first answer was lost."""
        copy = self._copies.get(session)
        if copy and copy.lease.owner == owner and not copy.fenced and not copy.is_over:
            return copy.lease
        with suppress(SessionEnded):
            return (
                await self._take(session, owner, lease_s)
                if await self._store.owner(session) == owner
                else None
            )
        return None

    async def _take(self, session: str, owner: str, lease_s: float) -> Lease:
        lease = await self._store.claim(session, owner, lease_s)
        record = await self._store.load(session)  # after the claim: nobody else can write any more
        try:
            self._check_reserve(record.origin)
        except JournalFull:
            await self._store.renew(lease, lease.epoch, 0.0, place_of(record))
            raise
        self._copies[session] = _Copy(lease, lease.epoch, lease_s, record, record)
        return lease

    def _owned(self, lease: Lease) -> _Copy:
        copy = self._copies.get(lease.session)
        if copy is None or copy.lease != lease or copy.is_over:
            raise Fenced(f"session {lease.session}: epoch {lease.epoch} of {lease.owner} is over")
        if copy.fenced:
            del self._copies[lease.session]
            raise copy.fenced
        return copy

    async def _replicate(self, copy: _Copy) -> None:
        """Store what is missing, unless Redis is gone: then the task that waits for it will."""
        if self._catching_up:
            return
        try:
            await self._push(copy)
        except JournalUnavailable as error:
            if not self._catching_up:
                _log.warning("journal: %s; sessions go on", error)
                self._catching_up = asyncio.create_task(self._catch_up())

    async def _push(self, copy: _Copy) -> None:
        async with copy.lock:
            if copy.fenced:
                raise copy.fenced
            try:
                await self._store_missing(copy)
            except Fenced as error:
                copy.fenced = error
                raise
            if copy.is_over and not copy.is_behind:
                self._copies.pop(copy.record.session, None)
                if copy.record.end_reason:
                    await self._store.forget_lease(copy.record.session)

    async def _store_missing(self, copy: _Copy) -> None:
        record = copy.record
        if copy.stored is not record and not await self._send(copy, record):
            copy.stored = None
            await self._send(copy, record)
        if copy.wants_renewal:
            copy.wants_renewal = False
            try:
                await self._renew(copy)
            except BaseException:
                copy.wants_renewal = True
                raise

    async def _renew(self, copy: _Copy) -> None:
        at = place_of(copy.record)
        if not await self._store.renew(copy.lease, copy.base, copy.lease_s, at):
            copy.stored = None
            await self._send(copy, copy.record)
            await self._store.renew(copy.lease, copy.base, copy.lease_s, at)
        copy.base = copy.lease.epoch

    async def _send(self, copy: _Copy, record: Record) -> bool:
        update = difference(copy.stored, record)
        if not await self._store.write(copy.lease, copy.base, update, copy.lease_s):
            return False
        copy.stored, copy.base = record, copy.lease.epoch
        copy.changed_s = self._clock()
        return True

    async def _catch_up(self) -> None:
        pause_s, longest_s = self._retry_s
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, longest_s)
            try:
                await self._store.ping()
                await self._renew_all()
                while late := [copy for copy in self._copies.values() if copy.is_behind]:
                    for copy in late:
                        with suppress(Fenced):  # kept in the copy, for its owner's next call
                            await self._push(copy)
            except JournalUnavailable:
                continue
            except Exception:
                _log.exception("journal: catching up failed; trying again")
                continue
            _log.info("journal: Redis has everything again")
            self._back_s, self._catching_up = self._clock(), None
            return

    async def _renew_all(self) -> None:
        """Leases ran out meanwhile: all of them first, before the data."""
        for copy in list(self._copies.values()):
            with suppress(Fenced):
                await self._store.renew(copy.lease, copy.base, copy.lease_s, place_of(copy.record))
