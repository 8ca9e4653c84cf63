"""Who gets a place, and when: recoveries first, then the queue, past those whom no free place serves."""

import asyncio
import time
from bisect import insort
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

from cascade.v1.decoder_pb2 import DecoderStatus
from cascade.v1.session_pb2 import QueueStatus
from cascade.v1.stage_pb2 import ModelInfo, StageStatus
from services.common.errors import QueueFull
from services.gateway.base.settings import GatewaySettings
from services.gateway.peers.peer import Peer
from services.gateway.peers.pool import Pool
from services.gateway.peers.reports import Kind
from services.gateway.placement.arrivals import Arrivals
from services.gateway.placement.claims import Claim, Places
from services.gateway.placement.ledger import Ledger, Place
from services.gateway.placement.needs import Needs, decoder_fits, is_behind, of_model, stage_fits, what_lacks
from services.gateway.placement.pace import Pace
from services.gateway.placement.running import Model, RunningSessions

MIN_SLEEP_S = 0.001
MAX_ETA_S = 86_400.0


class Admission:
    """Places of all stages and decoders. Belongs to one event loop; nothing in it waits but its callers."""

    def __init__(
        self,
        settings: GatewaySettings,
        stages: Pool[StageStatus],
        decoders: Pool[DecoderStatus],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._max_queue = settings.queue_length
        self._pace = Pace(clock)
        self.arrivals = Arrivals(clock)
        self._pool = stages
        self._models: dict[str, ModelInfo] = {}
        self._urgent: list[Claim] = []
        self._queue: list[Claim] = []
        self._timer: asyncio.TimerHandle | None = None
        stages.listen(self._learn)
        self.running = RunningSessions(clock, settings.recovery_timeout_s, settings.lease_s, self._move)
        open_s, left = settings.open_timeout_s, self.running.left
        self._stages = Ledger(
            stages, stage_fits, clock, open_s, self._move, self._pace.observe, partial(left, "stage")
        )
        self._decoders = Ledger(
            decoders,
            decoder_fits,
            clock,
            open_s,
            self._move,
            left=partial(left, "decoder"),
            is_behind=is_behind,
        )

    def enqueue(self, needs: Needs) -> Claim:
        """Queue for a stage and a decoder; served at once where both are free. Whoever has the claim either
        waits for it to the end, or cancels it. Raises QueueFull."""
        claim = Claim(needs, (self._stages, self._decoders), self._remove)
        if len(self._queue) >= self._max_queue and (self._is_kept(claim, {}) or not all(find_peers(claim))):
            raise QueueFull(f"{self._max_queue} sessions wait for a place already")
        self.arrivals.note()
        self._insert(claim, self._queue)
        return claim

    async def both(self, needs: Needs) -> Places:
        """A stage and a decoder at once, ahead of the queue. Waits as long as it takes."""
        return Places(*await self._hurry(needs, (self._stages, self._decoders)))

    async def stage(self, needs: Needs, avoid: Collection[str] = ()) -> Place[StageStatus]:
        """A stage at none of the addresses in `avoid`, as `both`."""
        return (await self._hurry(needs, (self._stages,), avoid))[0]

    async def decoder(self, needs: Needs, avoid: Collection[str] = ()) -> Place[DecoderStatus]:
        """As `stage`."""
        return (await self._hurry(needs, (self._decoders,), avoid))[0]

    def change(self, needs: Needs) -> None:
        """The session has come to need more: what it waits for, if it does, must offer that, too."""
        for claim in (*self._urgent, *self._queue):
            if claim.needs.session == needs.session:
                claim.change(replace(needs, is_resumed=claim.needs.is_resumed))
        self._move()

    def find_model(self, name: str) -> ModelInfo | None:
        """As the last stage that reported it said, whatever became of that stage."""
        return self._models.get(name)

    def offers(self, name: str) -> list[ModelInfo]:
        """As each stage that has it says now; while none is there, as `find_model`."""
        statuses = [peer.status for peer in self._pool.peers.values() if peer.status]
        known = [self._models[name]] if name in self._models else []
        return [status.model for status in statuses if status.model.model == name] or known

    @property
    def models(self) -> Collection[str]:
        """Names of all models that stages have reported."""
        return self._models.keys()

    @property
    def has_stages(self) -> bool:
        """Whether any stage has told its model yet."""
        return bool(self._models)

    @property
    def queue_length(self) -> int:
        """Sessions that wait for their first place, or for one after a pause."""
        return len(self._queue)

    def status(self, claim: Claim) -> QueueStatus:
        """As of now; position 0 once it is not in the queue any more."""
        status = self._describe(claim.position)
        if claim.position:
            status.message = self.what_lacks(claim.needs)
        return status

    def what_lacks(self, needs: Needs) -> str:
        """For people: what no stage that is there can do; empty: nothing."""
        return what_lacks([peer.status.model for peer in self._pool.peers.values() if peer.status], needs)

    @property
    def last_in_queue(self) -> QueueStatus:
        """Of the session that waits at the end; position 0: nobody waits."""
        return self._describe(len(self._queue))

    @property
    def num_urgent(self) -> int:
        """Places that recoveries and moves wait for."""
        return len(self._urgent)

    def num_recovering(self, kind: Kind) -> int:
        """Sessions that lost their place there and wait for another; those that move still have theirs."""
        ledger = self.ledger(kind)
        return sum(ledger in claim.ledgers and not claim.avoid for claim in self._urgent)

    def ledger(self, kind: Kind) -> Ledger[Any]:
        """The places of the stages, or of the decoders."""
        return self._stages if kind == "stage" else self._decoders

    @property
    def num_busy(self) -> int:
        """Places on stages that sessions of this gateway hold, paused ones included."""
        return self._stages.num_places

    def close(self) -> None:
        """Set no more timers."""
        if self._timer:
            self._timer.cancel()

    async def _hurry(
        self, needs: Needs, ledgers: tuple[Ledger[Any], ...], avoid: Collection[str] = ()
    ) -> tuple[Place[Any], ...]:
        claim = Claim(needs, ledgers, self._remove, avoid)
        self._insert(claim, self._urgent)
        return await claim.wait()

    def _insert(self, claim: Claim, line: list[Claim]) -> None:
        insort(line, claim, key=lambda waiting: waiting.needs.rank)
        self._tell_positions()
        self._move()

    def _remove(self, *claims: Claim) -> None:
        """Served, or given up."""
        for line in (self._urgent, self._queue):
            line[:] = [claim for claim in line if claim not in claims]
        self._tell_positions()

    def _learn(self, peer: Peer[StageStatus]) -> None:
        if peer.status and peer.status.HasField("model"):
            self._models[peer.status.model.model] = peer.status.model

    def _move(self) -> None:
        """Serve everybody who can be served."""
        for ledger in (self._stages, self._decoders):
            ledger.expire()
        stuck = set()
        served = []
        kept: dict[Any, int] = {}
        for claim in (*self._urgent, *self._queue):
            if claim.key in stuck:
                continue
            if claim.position and self._is_kept(claim, kept):
                stuck.add(claim.key)
            elif serve(claim):
                served.append(claim)
            elif not make_room(claim):
                stuck.add(claim.key)
        if served:
            self._remove(*served)
        self._set_timer()

    def _is_kept(self, claim: Claim, known: dict[Any, int]) -> bool:
        """Whether all that is free is for sessions that run, or ran until their gateway was lost. `known`:
        how many are kept, by kind and model, as long as nothing is heard."""
        kinds: tuple[Kind, ...] = ("stage", "decoder")
        for kind in kinds:
            key = kind, claim.needs.model, claim.needs.revision
            if key not in known:
                known[key] = self._num_kept(kind, claim.needs)
            num_kept = known[key]
            if num_kept and num_kept >= self.ledger(kind).num_free_for(claim.needs):
                return True
        return False

    def _num_kept(self, kind: Kind, needs: Needs) -> int:
        """How many of the places that would do are kept."""
        ledger, model = self.ledger(kind), (needs.model, needs.revision)
        peers = ledger.serving(of_model(*model))
        serving = {each: ledger.serving(of_model(*each)) for each in self.running.groups}
        like = set[Model]()
        while more := {each for each, theirs in serving.items() if each not in like and theirs & peers}:
            like |= more
            peers = peers.union(*(serving[each] for each in more))
        return self.running.num_kept(kind, model, like, ledger.num_others(peers))

    def _tell_positions(self) -> None:
        for position, claim in enumerate(self._queue, 1):
            claim.move(position)

    def _describe(self, position: int) -> QueueStatus:
        status = QueueStatus(position=position, queue_length=len(self._queue))
        interval_s = self._pace.interval_s()
        if position and interval_s is not None:
            status.eta.FromMilliseconds(round(1000 * min(position * interval_s, MAX_ETA_S)))
        return status

    def _set_timer(self) -> None:
        """For what no event will tell: the end of a back-off, a revoked place that nobody leaves."""
        if self._timer:
            self._timer.cancel()
        dues = [due for ledger in (self._stages, self._decoders) if (due := ledger.next_due()) is not None]
        if dues:
            delay = max(min(dues) - self._clock(), MIN_SLEEP_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self._move)


def find_peers(claim: Claim) -> list[Peer[Any] | None]:
    """For each of its ledgers the peer to go to."""
    return [ledger.find(claim.needs, claim.avoid) for ledger in claim.ledgers]


def serve(claim: Claim) -> bool:
    """Grant the claim if all its places are free."""
    peers = [peer for peer in find_peers(claim) if peer]
    if len(peers) < len(claim.ledgers):
        return False
    places = zip(claim.ledgers, peers, strict=True)
    claim.grant(tuple(ledger.grant(peer, claim.needs) for ledger, peer in places))
    return True


def make_room(claim: Claim) -> bool:
    """Have missing places revoked, unless some are coming already; False where that does not help."""
    missing = [ledger for ledger in claim.ledgers if not ledger.find(claim.needs, claim.avoid)]
    coming = {ledger: place for ledger, place in claim.coming.items() if ledger.is_coming(place)}
    offered = {
        ledger: place
        for ledger in missing
        if ledger not in coming and (place := ledger.find_offered(claim.needs, claim.avoid))
    }
    if len(offered) + sum(ledger in coming for ledger in missing) < len(missing):
        return False
    for ledger, place in offered.items():
        ledger.revoke(place)
    claim.coming = coming | offered
    return True
