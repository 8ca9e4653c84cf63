"""A session that is owned here: its record, and what Redis has of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.journal.base import Lease
from services.gateway.journal.codec import Stored, difference, no_difference, outline
from services.gateway.journal.errors import LeaseLost
from services.gateway.journal.record import Record
from services.gateway.journal.redis_store import RedisStore

NEVER = float("-inf")


@dataclass
class Owned:
    """Changed by its owner at once, brought to Redis by `push`."""

    lease: Lease
    base: int
    """The last epoch known to be stored."""
    lease_s: float
    leased_until_s: float
    """By this machine's clock; until then nobody else can have taken it."""
    record: Record
    stored: Stored | None
    """What Redis has; None: nobody knows."""
    clock: Callable[[], float]
    changed_s: float = 0.0
    """When the first change that is not stored was made."""
    wants_lease: bool = False
    noted_s: float = NEVER
    """When the hints were last brought up to date."""
    fenced: LeaseLost | None = None
    pushing: asyncio.Task[None] | None = None
    """Stores what was written without waiting."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while Redis is spoken to."""

    @property
    def num_missing(self) -> int:
        """Changes that Redis lacks."""
        if self.fenced:
            return 0
        return self.record.revision - self.stored.head.revision if self.stored else self.record.revision + 1

    @property
    def is_over(self) -> bool:
        """Ended or released: to be forgotten here once Redis has it."""
        return bool(self.record.end) or self.lease_s == 0

    @property
    def is_behind(self) -> bool:
        """Whether `push` has something to bring."""
        return not self.fenced and (self.num_missing > 0 or self.wants_lease or self.noted_s == NEVER)

    async def push(self, store: RedisStore) -> None:
        """Store what is missing, or only ask whether the session is still ours.

        Raises StoreUnavailable, and LeaseLost, from then on at every call.
        """
        if self.fenced:
            raise self.fenced
        record, wants_lease, self.wants_lease = self.record, self.wants_lease, False
        try:
            until_ms = await self._put(store, record, wants_lease or self.num_missing > 0)
            self.stored, self.base, self.changed_s = outline(record), self.lease.epoch, self.clock()
            if self.is_over or self.noted_s < self.clock() - store.ttl_s / 4:
                self.noted_s = NEVER
                await store.note(record, until_ms)
                self.noted_s = self.clock()
        except LeaseLost as error:
            self.fenced = error
            raise
        except BaseException:
            self.wants_lease = self.wants_lease or wants_lease
            raise

    async def renew_first(self, store: RedisStore) -> None:
        """Renew the lease without waiting for the data. Raises StoreUnavailable."""
        if self.stored and not self.fenced and not self.is_over:
            try:
                if await store.put(self.lease, self.base, no_difference(self.stored), self.lease_s) is None:
                    self.stored = None
            except LeaseLost as error:
                self.fenced = error

    async def _put(self, store: RedisStore, record: Record, renews: bool) -> int:
        """Changes renew the lease as they are stored: a session that plays needs no calls for that."""
        started_s, lease_s, until_ms = self.clock(), self.lease_s, None
        if self.stored:
            update = difference(self.stored, record)
            until_ms = await store.put(self.lease, self.base, update, lease_s if renews else None)
        if until_ms is None:
            self.stored, self.noted_s, renews = None, NEVER, True
            until_ms = await store.put(self.lease, self.base, difference(None, record), lease_s)
        if renews:
            self.leased_until_s = started_s + lease_s
        assert until_ms is not None
        return until_ms
