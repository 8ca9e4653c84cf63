"""Who holds which place on which peer, and where there is one more. Sets no timer: see `expire`."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic
from weakref import WeakKeyDictionary

import structlog

from cascade.v1 import common_pb2
from services.gateway.peers.peer import Peer, S
from services.gateway.peers.pool import Pool
from services.gateway.placement.slots import Slot, Wish

log = structlog.get_logger(__name__)
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
REVOKE_S = 10.0
"""An owner's time to leave a place that was revoked."""


@dataclass
class Account(Generic[S]):
    """One peer's."""

    slots: set[Slot[S]] = field(default_factory=set)
    num_others: int = 0
    """Sessions of other gateways, as far as its reports tell."""
    closing: set[Slot[S]] = field(default_factory=set)
    """Released since its last report, which may count them still."""
    era: int = 0
    """How often it failed."""
    num_failures: int = 0
    """Without having served anybody between."""
    back_s: float | None = None
    """Clock when it is trusted again; None: it is."""


class Ledger(Generic[S]):
    """The places of one pool."""

    def __init__(
        self,
        pool: Pool[S],
        fits: Callable[[S, Wish], bool],
        clock: Callable[[], float],
        open_timeout_s: float,
        changed: Callable[[], None],
        freed: Callable[[], None] = lambda: None,
    ) -> None:
        """`open_timeout_s`: a session that has its place for longer is open there. `changed`: somebody might
        find a place now. `freed`: a slot was released."""
        self._pool = pool
        self._fits = fits
        self._clock = clock
        self._open_timeout_s = open_timeout_s
        self._changed = changed
        self._freed = freed
        self._accounts: WeakKeyDictionary[Peer[S], Account[S]] = WeakKeyDictionary()
        self._offered: dict[Slot[S], None] = {}
        self._revoked: dict[Slot[S], float] = {}
        pool.listen(self._heard)

    @property
    def num_slots(self) -> int:
        """Places held now."""
        return sum(len(account.slots) for account in self._accounts.values())

    def num_free(self, peer: Peer[S]) -> int:
        """Places that can be given out there now."""
        return max(0, self._num_usable(peer) - self.num_used(peer))

    def num_used(self, peer: Peer[S]) -> int:
        """Places taken there, by whichever gateway's sessions. One counts from its grant, which a report
        knows later, to a report after its release."""
        return max(num_reported(peer), self._num_held(peer) + self._account(peer).num_others)

    def find(self, wish: Wish, avoid: Collection[str]) -> Peer[S] | None:
        """The fullest peer that has a place for the wish."""
        fitting = (peer for peer in self._fitting(wish, avoid) if self.num_free(peer))
        return min(fitting, key=lambda peer: (self.num_free(peer), peer.address), default=None)

    def grant(self, peer: Peer[S], wish: Wish) -> Slot[S]:
        account = self._account(peer)
        slot = Slot(self, peer, wish.session, account.era, self._clock())
        account.slots.add(slot)
        return slot

    def find_offered(self, wish: Wish, avoid: Collection[str]) -> Slot[S] | None:
        """The place offered for longest that would help the wish."""
        fitting = {peer for peer in self._fitting(wish, avoid) if self._is_worth_revoking(peer)}
        return next((slot for slot in self._offered if slot.peer in fitting and slot.is_current), None)

    def revoke(self, slot: Slot[S]) -> None:
        """Ask its owner to leave."""
        log.info("place revoked", session=slot.session, address=slot.peer.address)
        del self._offered[slot]
        self._revoked[slot] = self._clock() + REVOKE_S
        slot.revoked.set()

    def is_coming(self, slot: Slot[S]) -> bool:
        """Whether a revoked place is about to become free."""
        return slot.is_current and (slot in self._revoked or slot in self._account(slot.peer).closing)

    def expire(self) -> None:
        """Trust peers again, and take places back whose owners did not leave, where that is due."""
        now = self._clock()
        for account in self._accounts.values():
            if account.back_s is not None and account.back_s <= now:
                account.back_s = None
        for slot in [slot for slot, due in self._revoked.items() if due <= now]:
            log.error("place taken back", session=slot.session, address=slot.peer.address)
            self._close(slot)

    def next_due(self) -> float | None:
        """When `expire` has something to do; None: never."""
        backs = (account.back_s for account in self._accounts.values() if account.back_s is not None)
        return min((*self._revoked.values(), *backs), default=None)

    def release(self, slot: Slot[S]) -> None:
        if slot.is_released:
            return
        self.praise(slot)
        self._close(slot)
        self._changed()

    def blame(self, slot: Slot[S]) -> None:
        account = self._account(slot.peer)
        if slot.era != account.era:
            return  # one of several that failed together
        delay = min(FIRST_BACKOFF_S * 2**account.num_failures, MAX_BACKOFF_S)
        account.era += 1
        account.num_failures += 1
        account.back_s = self._clock() + delay
        log.warning("peer failed a session", address=slot.peer.address, session=slot.session, backoff_s=delay)
        self._changed()

    def praise(self, slot: Slot[S]) -> None:
        account = self._account(slot.peer)
        slot.is_open = True
        if slot.era == account.era:
            account.num_failures = 0

    def offer(self, slot: Slot[S]) -> None:
        if slot.is_released or slot.revoked.is_set():
            return
        self._offered.setdefault(slot)
        self._changed()

    def withdraw(self, slot: Slot[S]) -> None:
        self._offered.pop(slot, None)

    def _account(self, peer: Peer[S]) -> Account[S]:
        return self._accounts.setdefault(peer, Account())

    def _heard(self, peer: Peer[S]) -> None:
        account = self._account(peer)
        account.closing.clear()
        account.num_others = self._count_others(peer, account)
        self._changed()

    def _count_others(self, peer: Peer[S], account: Account[S]) -> int:
        """As before, within the bounds that follow from which of our sessions the report may count."""
        held = [slot for slot in account.slots if slot.is_current]
        opened_s = self._clock() - self._open_timeout_s
        num_open = sum(slot.is_open or slot.granted_s <= opened_s for slot in held)
        least, most = num_reported(peer) - len(held), num_reported(peer) - num_open
        return max(0, least, min(account.num_others, most))

    def _num_held(self, peer: Peer[S]) -> int:
        return sum(slot.is_current for slot in self._account(peer).slots)

    def _num_usable(self, peer: Peer[S]) -> int:
        """Places for anybody; 0 unless it is ready, here to stay, and trusted."""
        status: Any = peer.status
        if status is None or peer.is_terminating or status.state != common_pb2.SERVING_STATE_READY:
            return 0
        return int(status.max_sessions) if self._account(peer).back_s is None else 0

    def _fitting(self, wish: Wish, avoid: Collection[str]) -> Iterator[Peer[S]]:
        for address, peer in self._pool.peers.items():
            if address not in avoid and peer.status and self._fits(peer.status, wish):
                yield peer

    def _is_worth_revoking(self, peer: Peer[S]) -> bool:
        """Not where there are too many: the place would not become free."""
        return self.num_used(peer) <= self._num_usable(peer)

    def _close(self, slot: Slot[S]) -> None:
        account = self._account(slot.peer)
        account.slots.discard(slot)
        if slot.is_current:
            account.closing.add(slot)
        self._offered.pop(slot, None)
        self._revoked.pop(slot, None)
        slot.is_released = True
        self._freed()


def num_reported(peer: Peer[Any]) -> int:
    """Sessions there, as of its last report."""
    return int(peer.status.num_sessions) if peer.status else 0
