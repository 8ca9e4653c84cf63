"""Who holds which place on which peer, and where there is one more. Sets no timer: see `expire`."""

import asyncio
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic
from weakref import WeakKeyDictionary

import structlog

from cascade.v1 import common_pb2
from services.common.backoff import doubled
from services.gateway.peers.peer import Peer, S
from services.gateway.peers.pool import Pool
from services.gateway.placement.needs import Needs

log = structlog.get_logger(__name__)
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
REVOKE_S = 10.0
"""An owner's time to leave a place that was revoked."""


@dataclass
class Account(Generic[S]):
    """One peer's."""

    places: "set[Place[S]]" = field(default_factory=set)
    num_others: int = 0
    """Sessions of other gateways, as far as its reports tell."""
    closing: "set[Place[S]]" = field(default_factory=set)
    """Released since its last report, which may count them still."""
    era: int = 0
    """How often it failed."""
    num_failures: int = 0
    """Without serving anybody in between."""
    back_s: float | None = None
    """Clock when it is trusted again; None: it is."""


class Place(Generic[S]):
    """One session's place on one peer, from its grant to `release`."""

    def __init__(self, ledger: "Ledger[S]", account: Account[S], peer: Peer[S], session: str) -> None:
        self.peer = peer
        self.session = session
        self.granted_s = ledger.clock()
        self.instance_id = peer.instance_id
        self.revoked = asyncio.Event()
        """Somebody else needs the place: release it within ten seconds."""
        self.is_open = False
        """Known to be open there."""
        self.is_released = False
        self._ledger = ledger
        self._account = account
        self._era = account.era

    @property
    def is_current(self) -> bool:
        """Whether the process that it was granted on is still there."""
        return not self.peer.is_gone and self.peer.instance_id == self.instance_id

    def release(self) -> None:
        """Give the place back, once the stream there is over; again: nothing."""
        if not self.is_released:
            self.praise()
            self._ledger.close(self)
            self._ledger.changed()

    def blame(self) -> None:
        """The peer failed the session: nothing goes there for 1 s, twice as long after each further failure,
        at most 30 s. Sessions that fail together count as one failure."""
        account = self._account
        if self._era != account.era:
            return  # one of several that failed together
        delay_s = doubled(FIRST_BACKOFF_S, account.num_failures, MAX_BACKOFF_S)
        account.era += 1
        account.num_failures += 1
        account.back_s = self._ledger.clock() + delay_s
        log.warning(
            "peer failed a session", address=self.peer.address, session=self.session, backoff_s=delay_s
        )
        self._ledger.changed()

    def praise(self) -> None:
        """The peer serves the session: earlier failures are forgotten. A release without blame says the
        same."""
        self.is_open = True
        if self._era == self._account.era:
            self._account.num_failures = 0

    def offer(self) -> None:
        """Paused: the place may be taken away where somebody needs it and no other is free."""
        if not (self.is_released or self.revoked.is_set()):
            self._ledger.offered.setdefault(self)
            self._ledger.changed()

    def withdraw(self) -> bool:
        """Not offered any more. False: too late, it is revoked."""
        self._ledger.offered.pop(self, None)
        return not self.revoked.is_set()


class Ledger(Generic[S]):
    """The places of one pool."""

    def __init__(
        self,
        pool: Pool[S],
        fits: Callable[[S, Needs], bool],
        clock: Callable[[], float],
        open_timeout_s: float,
        changed: Callable[[], None],
        freed: Callable[[], None] = lambda: None,
        left: Callable[[int], None] = lambda number: None,
        is_behind: Callable[[S], bool] = lambda status: False,
    ) -> None:
        """`open_timeout_s`: a session that has its place for longer is open there. `changed`: somebody might
        find a place now. `freed`: a place was released; `left`: this many were, by other gateways' sessions.
        `is_behind`: as measured, too slow for the sessions that it has."""
        self._pool = pool
        self._fits = fits
        self.clock = clock
        self._open_timeout_s = open_timeout_s
        self.changed = changed
        self._freed = freed
        self._left = left
        self._is_behind = is_behind
        self._accounts: WeakKeyDictionary[Peer[S], Account[S]] = WeakKeyDictionary()
        self.offered: dict[Place[S], None] = {}
        """Places of paused sessions, those offered for longest first."""
        self._revoked: dict[Place[S], float] = {}
        pool.listen(self._heard)

    @property
    def num_places(self) -> int:
        """Places held now."""
        return sum(len(account.places) for account in self._accounts.values())

    def num_free(self, peer: Peer[S]) -> int:
        """Places that can be given out there now."""
        return max(0, self._num_usable(peer) - self.num_used(peer))

    def num_used(self, peer: Peer[S]) -> int:
        """Places taken there, by whichever gateway's sessions. One counts from its grant, which a report
        shows only later, to the first report after its release."""
        return max(num_reported(peer), self._num_held(peer) + self._account(peer).num_others)

    def num_free_for(self, needs: Needs) -> int:
        """Places that the needs could be given now."""
        return sum(self.num_free(peer) for peer in self._fitting(needs, ()))

    def serving(self, needs: Needs) -> set[Peer[S]]:
        """Peers that fit the needs, and are here to stay."""
        return {peer for peer in self._fitting(needs, ()) if is_staying(peer)}

    def num_others(self, peers: Collection[Peer[S]]) -> int:
        """Sessions of other gateways there."""
        return sum(self._account(peer).num_others for peer in peers)

    def find(self, needs: Needs, avoid: Collection[str]) -> Peer[S] | None:
        """The fullest peer that has a place for the needs; one that is behind only where all are, since what
        was measured may be chance."""
        fitting = (peer for peer in self._fitting(needs, avoid) if self.num_free(peer))
        return min(fitting, key=self._order, default=None)

    def _order(self, peer: Peer[S]) -> tuple[bool, int, str]:
        is_behind = peer.status is not None and self._is_behind(peer.status)
        return is_behind, self.num_free(peer), peer.address

    def grant(self, peer: Peer[S], needs: Needs) -> Place[S]:
        account = self._account(peer)
        place = Place(self, account, peer, needs.session)
        account.places.add(place)
        return place

    def find_offered(self, needs: Needs, avoid: Collection[str]) -> Place[S] | None:
        """The place offered for longest that would help the needs."""
        fitting = {peer for peer in self._fitting(needs, avoid) if self._is_worth_revoking(peer)}
        return next((place for place in self.offered if place.peer in fitting and place.is_current), None)

    def revoke(self, place: Place[S]) -> None:
        """Ask its owner to leave."""
        log.info("place revoked", session=place.session, address=place.peer.address)
        del self.offered[place]
        self._revoked[place] = self.clock() + REVOKE_S
        place.revoked.set()

    def is_coming(self, place: Place[S]) -> bool:
        """Whether a revoked place is about to become free."""
        return place.is_current and (place in self._revoked or place in self._account(place.peer).closing)

    def expire(self) -> None:
        """Trust peers again, and take places back whose owners did not leave, where that is due."""
        now = self.clock()
        for account in self._accounts.values():
            if account.back_s is not None and account.back_s <= now:
                account.back_s = None
        for place in [place for place, due in self._revoked.items() if due <= now]:
            log.error("place taken back", session=place.session, address=place.peer.address)
            self.close(place)

    def next_due(self) -> float | None:
        """When `expire` has something to do; None: never."""
        backs = (account.back_s for account in self._accounts.values() if account.back_s is not None)
        return min((*self._revoked.values(), *backs), default=None)

    def close(self, place: Place[S]) -> None:
        """It is given back, or taken back."""
        account = self._account(place.peer)
        account.places.discard(place)
        if place.is_current:
            account.closing.add(place)
        self.offered.pop(place, None)
        self._revoked.pop(place, None)
        place.is_released = True
        self._freed()

    def _account(self, peer: Peer[S]) -> Account[S]:
        return self._accounts.setdefault(peer, Account())

    def _heard(self, peer: Peer[S]) -> None:
        account = self._account(peer)
        account.closing.clear()
        num_before, account.num_others = account.num_others, self._count_others(peer, account)
        if account.num_others < num_before:
            self._left(num_before - account.num_others)
        self.changed()

    def _count_others(self, peer: Peer[S], account: Account[S]) -> int:
        """As before, within the bounds that follow from which of our sessions the report may count."""
        held = [place for place in account.places if place.is_current]
        opened_s = self.clock() - self._open_timeout_s
        num_open = sum(place.is_open or place.granted_s <= opened_s for place in held)
        least, most = num_reported(peer) - len(held), num_reported(peer) - num_open
        return max(0, least, min(account.num_others, most))

    def _num_held(self, peer: Peer[S]) -> int:
        return sum(place.is_current for place in self._account(peer).places)

    def _num_usable(self, peer: Peer[S]) -> int:
        """Places for anybody; 0 unless it is ready, here to stay, and trusted."""
        status: Any = peer.status
        if status is None or not is_staying(peer):
            return 0
        return int(status.max_sessions) if self._account(peer).back_s is None else 0

    def _fitting(self, needs: Needs, avoid: Collection[str]) -> Iterator[Peer[S]]:
        for address, peer in self._pool.peers.items():
            if address not in avoid and peer.status and self._fits(peer.status, needs):
                yield peer

    def _is_worth_revoking(self, peer: Peer[S]) -> bool:
        """Not where there are too many: the place would not become free."""
        return self.num_used(peer) <= self._num_usable(peer)


def is_staying(peer: Peer[Any]) -> bool:
    """Neither gone nor told to go."""
    status, ready = peer.status, common_pb2.SERVING_STATE_READY
    return status is not None and not peer.is_terminating and status.state == ready


def num_reported(peer: Peer[Any]) -> int:
    """Sessions there, as of its last report."""
    return int(peer.status.num_sessions) if peer.status else 0
