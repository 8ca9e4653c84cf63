"""Everything at a glance, for operators: stages, decoders, queue, sessions. Read as it is; nothing waits."""

import time
from collections.abc import Iterator
from typing import Any

from cascade.v1 import operator_pb2 as pb
from cascade.v1.stage_pb2 import StageStatus
from services.common.durations import to_duration
from services.common.server_info import server_info
from services.gateway.peers.peer import Peer
from services.gateway.peers.pool import Pool
from services.gateway.session import views
from services.gateway.session.conductor import Conductor
from services.gateway.session.registry import Registry
from services.gateway.session.shared import Shared

DEFAULT_SESSIONS = 100
MAX_PEERS = 1024
"""Of each kind, as the contract says."""
MAX_LOST_CHARS = 512


class Overview:
    """What one gateway knows."""

    def __init__(self, shared: Shared, registry: Registry) -> None:
        self._shared = shared
        self._registry = registry
        self._server = server_info()

    def read(self, max_sessions: int) -> pb.GetOverviewResponse:
        """`max_sessions` 0: DEFAULT_SESSIONS."""
        conductors = [each for each in self._registry.conductors if not each.live.record.end]
        conductors.sort(key=lambda each: (-each.live.record.created_ms, each.live.record.session))
        shared = self._shared
        return pb.GetOverviewResponse(
            read_time=views.timestamp(shared.now_ms()),
            gateway=self._server,
            gateway_address=shared.address,
            is_leaving=self._registry.is_leaving,
            stages=[pb.StageView(**view) for view in self._peers(shared.stages)],
            decoders=[pb.DecoderView(**view) for view in self._peers(shared.decoders)],
            queue=self._queue(),
            sessions=map(session_view, conductors[: max_sessions or DEFAULT_SESSIONS]),
            num_sessions=len(conductors),
        )

    def _peers(self, pool: Pool[Any]) -> Iterator[dict[str, Any]]:
        """Those that are listed, and those that still serve sessions."""
        for _, peer in sorted({**pool.leaving, **pool.peers}.items())[:MAX_PEERS]:
            view = {"peer": self._peer(pool, peer)}
            yield view | ({"status": brief(peer.status)} if peer.status else {})

    def _peer(self, pool: Pool[Any], peer: Peer[Any]) -> pb.PeerView:
        ledger = self._shared.admission.ledger(pool.kind)
        return pb.PeerView(
            address=peer.address,
            pod=peer.pod.name if peer.pod else "",
            is_terminating=peer.is_terminating,
            lost=peer.lost_because[:MAX_LOST_CHARS],
            num_used=ledger.num_used(peer),
            num_free=ledger.num_free(peer) if peer.address in pool.peers else 0,
        )

    def _queue(self) -> pb.QueueView:
        admission = self._shared.admission
        queue = pb.QueueView(
            length=admission.queue_length,
            max_length=self._shared.settings.gateway.queue_length,
            num_urgent=admission.num_urgent,
        )
        last = admission.last_in_queue
        if last.HasField("eta"):
            queue.last_eta.CopyFrom(last.eta)
        return queue


def brief(status: Any) -> Any:
    """Without the model's example prompts."""
    if not (isinstance(status, StageStatus) and status.model.example_prompts):
        return status
    short = StageStatus()
    short.CopyFrom(status)
    short.model.ClearField("example_prompts")
    return short


def session_view(conductor: Conductor) -> pb.SessionView:
    """Without its prompts."""
    live = conductor.live
    planner, now = live.just_in_time, time.monotonic()
    lead_s, ahead_s = planner.lead_s(now), planner.ahead_s(live.record.next_decoder_block, now)
    stage, decoder = conductor.addresses
    return pb.SessionView(
        name=views.name_of(live.record.session),
        tenant=live.record.tenant,
        model=live.spec.model,
        state=live.state,
        epoch=live.lease.epoch if views.MODEL in live.record.notes else 0,
        queue=live.queue,
        stage=stage,
        decoder=decoder,
        last_sequence=live.record.next_decoder_block,
        acked_sequence=live.num_acked,
        has_controller=live.controller is not None,
        num_viewers=live.num_viewers,
        create_time=views.timestamp(live.record.created_ms),
        stagger=live.spec.stagger,
        inflight_attention=live.spec.inflight_attention,
        loras=views.loras_of(live.record),
        lead=None if lead_s is None else to_duration(lead_s),
        made_ahead=None if ahead_s is None else to_duration(ahead_s),
        num_stalls=planner.num_stalls,
    )
