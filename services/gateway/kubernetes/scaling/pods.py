"""The pods of one component, from their reports and the list of addresses."""

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from cascade.v1 import common_pb2
from services.gateway.kubernetes.scaling.demand import PodLoad
from services.gateway.peers.peer import Peer
from services.gateway.peers.pool import Pool
from services.gateway.placement.ledger import Ledger

ASTRAY = {
    common_pb2.SERVING_STATE_RESTARTING,
    common_pb2.SERVING_STATE_DRAINING,
    common_pb2.SERVING_STATE_UNHEALTHY,
}
"""States of a pod that was ready before."""
STARTS_AGAIN_S = 900.0
"""Time a pod whose process ended has to load its model again, in one try or several; then it is out."""


class Pods:
    """Look often: how long a pod is away is counted from look to look."""

    def __init__(
        self, pool: Pool[Any], ledger: Ledger[Any], replace_after_s: float, clock: Callable[[], float]
    ) -> None:
        """`replace_after_s`: a pod that was ready, and has not been for this long, is out."""
        self._pool = pool
        self._ledger = ledger
        self._replace_after_s = replace_after_s
        self._clock = clock
        self._heard: WeakSet[Peer[Any]] = WeakSet()
        self._served: WeakSet[Peer[Any]] = WeakSet()
        self._away_since: WeakKeyDictionary[Peer[Any], float] = WeakKeyDictionary()

    @property
    def is_listed(self) -> bool:
        """Whether anybody has said which pods there are."""
        return self._pool.is_listed

    @property
    def have_all_reported(self) -> bool:
        """Each that is listed, at least once."""
        peers = self._pool.peers.values()
        return self._pool.is_listed and all(peer.status or peer in self._heard for peer in peers)

    def look(self) -> list[PodLoad]:
        """All, as of now."""
        return [self._pod(peer, is_listed=is_listed) for peer, is_listed in self._peers()]

    def _peers(self) -> Iterator[tuple[Peer[Any], bool]]:
        for peer in self._pool.peers.values():
            yield peer, True
        for peer in self._pool.leaving.values():
            yield peer, False

    def _pod(self, peer: Peer[Any], *, is_listed: bool) -> PodLoad:
        self._note(peer)
        is_ready = state_of(peer) == common_pb2.SERVING_STATE_READY
        is_leaving = peer.is_terminating or not is_listed
        return PodLoad(
            num_sessions=self._ledger.num_used(peer),
            max_sessions=int(peer.status.max_sessions) if peer.status and is_ready else 0,
            is_leaving=is_leaving,
            is_out=not is_leaving and self._is_out(peer),
        )

    def _is_out(self, peer: Peer[Any]) -> bool:
        """One that starts for the first time never is: those asked for beside it would start, too."""
        starts = state_of(peer) == common_pb2.SERVING_STATE_STARTING
        limit_s = max(STARTS_AGAIN_S, self._replace_after_s) if starts else self._replace_after_s
        return peer in self._away_since and self._clock() - self._away_since[peer] >= limit_s

    def _note(self, peer: Peer[Any]) -> None:
        """When it went away, if it was ready before, and whether it is back."""
        state = state_of(peer)
        if peer.status:
            self._heard.add(peer)
        if state == common_pb2.SERVING_STATE_READY:
            self._served.add(peer)
            self._away_since.pop(peer, None)
        elif peer in self._served or state in ASTRAY:
            self._away_since.setdefault(peer, self._clock())


def state_of(peer: Peer[Any]) -> int | None:
    """ServingState; None while it is silent."""
    return peer.status.state if peer.status else None
