"""Tells Kubernetes which pods are busy, so that a ReplicaSet that shrinks takes idle ones."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from services.gateway.kubernetes.api import Api
from services.gateway.kubernetes.chores import Chores
from services.gateway.kubernetes.clock import Clock
from services.gateway.kubernetes.errors import ApiError
from services.gateway.peers.endpoints import Pod
from services.gateway.peers.peer import Peer
from services.gateway.peers.pool import Pool

log = structlog.get_logger(__name__)
ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
BUSY = "1000"
"""Pods without the annotation cost 0."""
SPREAD_S = 1.0
"""Several gateways see the same: the first writes, the others find it written."""
OTHER_POD = (404, 422)
"""The name is nobody's by now, or that of a pod with another uid, which no patch can change."""


@dataclass
class PodCost:
    """One pod's."""

    is_busy: bool | None = None
    """As it reported last; None: not yet."""
    is_marked: bool | None = None
    """As its annotation says; None: not known, or being changed."""


class DeletionCosts:
    """Writes only on changes between busy and idle: Kubernetes warns of frequent updates."""

    def __init__(self, api: Api, chores: Chores, clock: Clock, idle_after_s: float) -> None:
        """`idle_after_s`: a pod without sessions for that long is idle."""
        self._api = api
        self._chores = chores
        self._clock = clock
        self._idle_after_s = idle_after_s
        self._costs: dict[str, PodCost] = {}

    def follow(self, pool: Pool[Any]) -> None:
        """Watch these pods, too."""
        pool.listen(lambda peer: self._heard(pool, peer))

    def _heard(self, pool: Pool[Any], peer: Peer[Any]) -> None:
        if peer.pod is None:
            return
        if pool.peers.get(peer.address) is not peer or peer.is_terminating:
            self._forget(peer.pod)
        elif peer.status is not None:
            self._note(peer.pod, is_busy=peer.status.num_sessions > 0)

    def _note(self, pod: Pod, *, is_busy: bool) -> None:
        cost = self._costs.setdefault(pod.uid, PodCost())
        if cost.is_busy == is_busy:
            return
        cost.is_busy = is_busy
        if cost.is_marked == is_busy:
            self._chores.drop(pod.uid)
            return
        delay_s = 0.0 if is_busy else self._idle_after_s
        job = partial(self._mark, pod, cost, is_busy)
        self._chores.put(pod.uid, job, delay_s + self._clock.jitter(0.0, SPREAD_S))

    def _forget(self, pod: Pod) -> None:
        if self._costs.pop(pod.uid, None):
            self._chores.drop(pod.uid)

    async def _mark(self, pod: Pod, cost: PodCost, is_busy: bool) -> None:
        """Raises ApiError."""
        cost.is_marked = None
        wanted = BUSY if is_busy else None
        try:
            if await self._api.get_annotation(pod, ANNOTATION) != wanted:
                await self._api.set_annotation(pod, ANNOTATION, wanted)
                log.info("deletion cost", pod=pod.name, is_busy=is_busy)
        except ApiError as error:
            if error.status not in OTHER_POD:
                raise
        cost.is_marked = is_busy
