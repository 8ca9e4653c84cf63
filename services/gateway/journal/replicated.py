"""The journal of several gateways: an owner keeps its sessions' records in memory, Redis has a copy of each.

So a session goes on while Redis is gone, and can be rebuilt by its owner meanwhile. What Redis lacks is the
difference of two records, at most one record: nothing piles up, and old latents and segments give way to
newer ones by the same rules as always. When Redis is back, each session's difference is stored in one atomic
step; if Redis came back with less than it had, the whole record is.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

from cascade_core.errors import InvalidConfig
from services.gateway.journal.base import (
    Behind,
    Creation,
    Lease,
    Page,
    Summary,
    check_page,
    check_reserve,
    fenced,
)
from services.gateway.journal.changes import Change
from services.gateway.journal.codec import no_difference, outline
from services.gateway.journal.errors import (
    JournalError,
    JournalFull,
    LeaseLost,
    NoSuchSession,
    SessionEnded,
    SessionTaken,
    StoreUnavailable,
    TooManyOpen,
)
from services.gateway.journal.owned import Owned
from services.gateway.journal.record import NewSession, Record, new_record
from services.gateway.journal.redis_look import may_evict
from services.gateway.journal.redis_store import RedisStore
from services.gateway.journal.rules import apply
from services.gateway.journal.running import RunningSession
from services.gateway.journal.unbroken import Unbroken

_log = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 5.0
GATHER_S = 0.1
"""What is written without waiting goes to Redis after this long, with all that came meanwhile: a block's
latents and its segment in one step."""
MAX_PUSHES = 8
"""Sessions stored at once, after an outage."""


class ReplicatedJournal:
    """A `Journal` whose owned sessions outlive this process, in Redis.

    While Redis is gone, sessions owned here go on and may be claimed again here; whatever concerns others'
    sessions raises StoreUnavailable.
    """

    def __init__(
        self,
        store: RedisStore,
        *,
        max_total_bytes: int = 8 * 2**30,
        retry_s: tuple[float, float] = (0.05, 1.0),
        takeover_grace_s: float = 4.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._max_total_bytes = max_total_bytes
        """Reserved by the sessions owned here."""
        self._retry_s = retry_s
        """First and longest pause between two tries while Redis is gone; each is drawn from its upper
        half."""
        self._takeover_grace_s = takeover_grace_s
        """More than a lease. For that long after an outage, and after our own start, only what was released
        is claimed: owners renew first."""
        self._clock = clock
        self._unbroken = Unbroken(clock, takeover_grace_s / 4)
        self._owned: dict[str, Owned] = {}
        self._catching_up: asyncio.Task[None] | None = None
        self._is_connected = True
        self._may_evict = False

    @property
    def is_connected(self) -> bool:
        return self._is_connected

    @property
    def may_evict(self) -> bool:
        return self._may_evict

    async def start(self) -> None:
        try:
            await self._examine()
        except StoreUnavailable as error:
            self._go_on_without(error)

    async def create(
        self, new: NewSession, owner: str, lease_s: float, max_open: int | None = None
    ) -> Creation:
        try:
            return await self._create(new, owner, lease_s, max_open)
        except SessionTaken as error:
            if error.session == new.session:
                raise
        # An earlier try had chosen a session id that is taken; that choice is dropped now.
        return await self._create(new, owner, lease_s, max_open)

    async def look(self) -> None:
        self._unbroken.heard(await self._store.server())

    async def claim(self, session: str, owner: str, lease_s: float) -> Lease:
        owned = self._owned.get(session)
        if owned is None or owned.lease.owner != owner or owned.fenced:
            return await self._take(session, owner, lease_s)
        if owned.record.end:
            raise SessionEnded(f"session {session}: has ended")
        try:
            return await self.advance(owned.lease, lease_s)
        except LeaseLost:
            return await self._take(session, owner, lease_s)

    async def advance(self, lease: Lease, lease_s: float) -> Lease:
        owned = self._held_under(lease)
        async with owned.lock:
            lease = owned.lease = replace(owned.lease, epoch=owned.lease.epoch + 1)
            owned.lease_s = lease_s
        await self.renew(lease, lease_s)
        return lease

    async def renew(self, lease: Lease, lease_s: float) -> None:
        owned = self._held_under(lease)
        owned.lease_s, owned.wants_lease = lease_s, True
        await self._replicate(owned)

    def is_leased(self, lease: Lease, seconds: float) -> bool:
        owned = self._owned.get(lease.session)
        if owned is None or owned.lease != lease or owned.fenced:
            return False
        return owned.leased_until_s >= self._clock() + seconds

    async def release(self, lease: Lease) -> None:
        await self.renew(lease, 0.0)

    async def find_request(self, tenant: str, request_id: str) -> str | None:
        return await self._store.find_request(tenant, request_id)

    async def write(self, lease: Lease, *changes: Change, is_urgent: bool = True) -> Record:
        owned = self._held_under(lease)
        before = owned.record
        try:
            after = apply(before, *changes)
            self._check_reserve(after.limits.max_bytes - before.limits.max_bytes)
        except JournalError:
            await self._replicate(owned)  # an owner that was fenced hears of that first
            raise
        if not owned.num_missing:
            owned.changed_s = self._clock()
        owned.record = after
        if is_urgent or after.end:
            await self._replicate(owned)
        elif owned.pushing is None or owned.pushing.done():
            owned.pushing = asyncio.create_task(self._follow(owned), name=f"journal {after.session}")
        return after

    async def load(self, session: str) -> Record:
        owned = await self._still_owned(session)
        return owned.record if owned else await self._store.reads.load(session)

    async def head(self, session: str) -> Record:
        owned = await self._still_owned(session)
        return outline(owned.record).head if owned else await self._store.reads.head(session)

    async def summary(self, session: str) -> Summary:
        if owned := await self._still_owned(session):
            left_s = 0.0 if owned.is_over else max(0.0, owned.leased_until_s - self._clock())
            return Summary(owned.record.brief(), owned.lease.owner, owned.lease.epoch, left_s)
        found = (await self._store.summaries([session]))[0]
        if found is None:
            await self.look()
            if self._unbroken.seconds_since_loss < self._takeover_grace_s:
                raise StoreUnavailable("the journal's store has lost sessions, which are being stored again")
            raise NoSuchSession(f"session {session}: unknown or expired")
        return found

    async def list_sessions(self, tenant: str, page_token: str = "", page_size: int = 50) -> Page:
        check_page(page_token, page_size)
        return await self._store.reads.list_sessions(tenant, page_token, page_size)

    async def num_open(self, tenant: str) -> int:
        return await self._store.num_open(tenant)

    async def orphans(self, limit: int) -> list[str]:
        if not self._is_connected:
            return []
        return await self._store.orphans(limit, only_released=await self._is_too_soon())

    def clock(self) -> float:
        return self._store.last_known_s()

    async def share_running(
        self, mine: Collection[RunningSession], over: Collection[str]
    ) -> list[RunningSession]:
        return await self._store.share_running(mine, over)

    def behind(self) -> Behind:
        late = [owned for owned in self._owned.values() if owned.num_missing]
        if not late:
            return Behind()
        oldest_s = min(owned.changed_s for owned in late)
        return Behind(sum(owned.num_missing for owned in late), len(late), self._clock() - oldest_s)

    async def close(self) -> None:
        pushes = [owned.pushing for owned in self._owned.values() if owned.pushing]
        tasks = [*pushes, *([self._catching_up] if self._catching_up else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._is_connected = True  # or so we hope
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._push_all()
        await self._store.close()

    async def _create(self, new: NewSession, owner: str, lease_s: float, max_open: int | None) -> Creation:
        session, is_repeat = await self._store.reserve(new)
        new = replace(new, session=session)
        if is_repeat and await self._store.is_made(new):
            return Creation(session, None, is_new=False)
        try:
            if not is_repeat:
                self._check_reserve(new.limits.max_bytes)
            record = new_record(new, await self._store.now_ms())
            async with self._store.room(record, max_open):
                return await self._make(record, owner, lease_s)
        except TooManyOpen:
            if new.request_id and await self._store.is_made(new):  # by the same request, sent twice
                return Creation(session, None, is_new=False)
            await self._store.drop_reservation(new)
            raise
        except (JournalFull, SessionTaken):
            await self._store.drop_reservation(new)
            raise

    async def _make(self, record: Record, owner: str, lease_s: float) -> Creation:
        lease, started_s = Lease(record.session, owner, 1), self._clock()
        is_new = await self._store.create(lease, record, lease_s)
        if is_new:
            await self._keep(lease, record, lease_s, started_s)
        return Creation(record.session, lease if is_new else None, is_new)

    async def _take(self, session: str, owner: str, lease_s: float) -> Lease:
        too_soon, started_s = await self._is_too_soon(), self._clock()
        await self._store.head(session)  # what it cannot read, it must not claim
        lease = await self._store.claim(session, owner, lease_s, only_released=too_soon)
        record = await self._store.load(session)  # after the claim: nobody else can write any more
        try:
            self._check_reserve(record.limits.max_bytes)
        except JournalFull:
            await self._store.put(lease, lease.epoch, no_difference(outline(record)), 0.0)
            raise
        await self._keep(lease, record, lease_s, started_s)
        return lease

    async def _is_too_soon(self) -> bool:
        """Whether owners may not have been able to renew yet."""
        await self.look()
        return self._unbroken.seconds < self._takeover_grace_s

    async def _keep(self, lease: Lease, record: Record, lease_s: float, started_s: float) -> None:
        """Own what Redis has just granted; of two claims at once the later epoch stays."""
        known = self._owned.get(lease.session)
        if (
            known
            and known.lease.owner == lease.owner
            and known.lease.epoch > lease.epoch
            and not known.fenced
        ):
            return
        until_s, stored = started_s + lease_s, outline(record)
        owned = Owned(lease, lease.epoch, lease_s, until_s, record, stored, self._clock)
        self._owned[lease.session] = owned
        with suppress(LeaseLost):  # its owner hears of that at its first call
            await self._try_to_push(owned)

    def _check_reserve(self, wanted: int) -> None:
        held = sum(owned.record.limits.max_bytes for owned in self._owned.values()) if wanted > 0 else 0
        check_reserve(held, wanted, self._max_total_bytes)

    def _held_under(self, lease: Lease) -> Owned:
        owned = self._owned.get(lease.session)
        if owned is None or owned.lease != lease or owned.is_over:
            raise fenced(lease, owned.lease.epoch if owned else lease.epoch)
        if owned.fenced:
            self._forget(owned)
            raise owned.fenced
        return owned

    async def _still_owned(self, session: str) -> Owned | None:
        """The session if it is owned here, as far as can be told now."""
        owned = self._owned.get(session)
        if owned and owned.leased_until_s <= self._clock():
            with suppress(LeaseLost):  # kept for its owner's next call
                await self._try_to_push(owned)
        return owned if owned and not owned.fenced else None

    async def _replicate(self, owned: Owned) -> None:
        """Store what is missing, for its owner. Raises LeaseLost."""
        try:
            await self._try_to_push(owned)
        except LeaseLost:
            self._forget(owned)  # nobody asks for it any more
            raise

    async def _try_to_push(self, owned: Owned) -> None:
        """Store what is missing; once Redis is gone, a task that waits for it does. Raises LeaseLost."""
        try:
            if self._is_connected:
                await self._push(owned)
        except StoreUnavailable as error:
            self._go_on_without(error)

    def _go_on_without(self, error: StoreUnavailable) -> None:
        if self._is_connected:
            _log.warning("journal: %s; sessions go on", error)
        self._is_connected = False
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up())

    async def _follow(self, owned: Owned) -> None:
        """Store what was written without waiting; what comes meanwhile goes along."""
        with suppress(LeaseLost):  # kept for its owner's next call
            await asyncio.sleep(GATHER_S)
            while owned.num_missing and self._is_connected:
                await self._try_to_push(owned)
                await asyncio.sleep(GATHER_S)

    async def _push(self, owned: Owned) -> None:
        async with owned.lock:
            if not self._is_connected:
                return  # found out while this waited
            await owned.push(self._store)
            if owned.is_over and not owned.is_behind:
                self._forget(owned)

    def _forget(self, owned: Owned) -> None:
        """Another gateway has it, or nobody needs it any more."""
        if self._owned.get(owned.record.session) is owned:
            del self._owned[owned.record.session]

    async def _push_all(self) -> None:
        """Several at a time: until it is stored, other gateways do not know a session that Redis has lost."""
        turns = asyncio.Semaphore(MAX_PUSHES)

        async def push(owned: Owned) -> None:
            async with turns:
                with suppress(LeaseLost):  # kept for its owner's next call
                    await self._push(owned)

        behind = [owned for owned in self._owned.values() if owned.is_behind]
        failed = [
            error for error in await asyncio.gather(*map(push, behind), return_exceptions=True) if error
        ]
        if failed:
            raise failed[0]

    async def _examine(self) -> None:
        """Look at a Redis that may be another than before."""
        await self._store.now_ms()
        self._may_evict = await may_evict(self._store)

    async def _catch_up(self) -> None:
        pause_s, longest_s = self._retry_s
        while not self._is_connected:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, longest_s)
            try:
                await self.look()
                for owned in list(self._owned.values()):  # leases ran out meanwhile: they come first
                    async with owned.lock:
                        await owned.renew_first(self._store)
                self._is_connected = True
                _log.info("journal: Redis is back")
                await self._push_all()
                await self._examine()
            except StoreUnavailable:
                self._is_connected = False
            except InvalidConfig as error:
                _log.error("journal: %s", error)
            except Exception:
                _log.exception("journal: catching up failed; trying again")
                self._is_connected = False
