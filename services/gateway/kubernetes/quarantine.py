"""Events on pods whose hardware or progress cannot be trusted, for people who look at pods."""

import hashlib
import re
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from cascade.v1 import common_pb2
from services.gateway.kubernetes.api import Api
from services.gateway.kubernetes.chores import Chores
from services.gateway.kubernetes.clock import Clock
from services.gateway.kubernetes.errors import ApiError
from services.gateway.peers.endpoints import Pod
from services.gateway.peers.peer import Peer
from services.gateway.peers.pool import Pool

log = structlog.get_logger(__name__)
REASONS = {
    common_pb2.SERVING_STATE_QUARANTINED: "GpuQuarantined",
    common_pb2.SERVING_STATE_UNHEALTHY: "Unhealthy",
}
"""Of the states that people should look at."""
CONTROLLER = "cascade/gateway"
NOTE_BYTES, INSTANCE_LENGTH, NAME_LENGTH = 1024, 128, 200
"""The API's bounds; of a name, with room for what is added."""
SPREAD_S = 1.0
"""Several gateways see the same: the first tells, the others learn that it is told."""
INTERVAL_S = 60.0
"""Between two events of a pod, at least."""
CONFLICT = 409
MEASURED = re.compile(r"(?<!Xid )(?<!GPU )(?<![\d.])\d[\d.]*")
"""Numbers that may differ from report to report while the reason is the same."""


class QuarantineEvents:
    """One per pod, process and reason, whichever gateway tells it."""

    def __init__(self, api: Api, chores: Chores, clock: Clock, instance: str) -> None:
        """`instance`: this gateway, as the events name it."""
        self._api = api
        self._chores = chores
        self._clock = clock
        self._instance = instance[:INSTANCE_LENGTH]
        self._told: dict[str, tuple[str, float]] = {}
        """By pod: the last reason, empty once it is well again, and when the last event was or is due."""

    def follow(self, pool: Pool[Any]) -> None:
        """Watch these pods, too."""
        pool.listen(lambda peer: self._heard(pool, peer))

    def _heard(self, pool: Pool[Any], peer: Peer[Any]) -> None:
        pod, status = peer.pod, peer.status
        if pod is None:
            return
        if pool.peers.get(peer.address) is not peer:
            self._told.pop(pod.uid, None)
        elif status is not None:
            self._note(pod, status, note_of(status))

    def _note(self, pod: Pod, status: Any, note: str) -> None:
        reason, now = MEASURED.sub("#", note), self._clock.now()
        told, told_s = self._told.get(pod.uid, ("", now - INTERVAL_S))
        if reason == told:
            return
        self._told[pod.uid] = reason, told_s
        if reason:
            due_s = self._chores.due_s(pod.uid)
            if due_s is None:
                due_s = max(now + self._clock.jitter(0.0, SPREAD_S), told_s + INTERVAL_S)
            self._told[pod.uid] = reason, due_s
            event = self._describe(pod, status, note, reason)
            self._chores.put(pod.uid, partial(self._tell, pod, event), due_s - now)

    def _describe(self, pod: Pod, status: Any, note: str, reason: str) -> dict[str, Any]:
        """Of events.k8s.io/v1. Its name follows from what it says, so that there is one of it."""
        about = f"{pod.uid}/{status.server.instance_id}/{reason}"
        digest = hashlib.sha256(about.encode()).hexdigest()[:16]
        namespace = self._api.namespace
        return {
            "metadata": {"name": f"{pod.name[:NAME_LENGTH]}.{digest}", "namespace": namespace},
            "type": "Warning",
            "reason": REASONS[status.state],
            "action": "Quarantine",
            "note": cut(note, NOTE_BYTES),
            "regarding": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": pod.name,
                "namespace": namespace,
                "uid": pod.uid,
            },
            "eventTime": micro_time(datetime.now(UTC)),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
        }

    async def _tell(self, pod: Pod, event: dict[str, Any]) -> None:
        """Raises ApiError."""
        try:
            await self._api.create_event(event)
            log.info("event", pod=pod.name, reason=event["reason"], note=event["note"])
        except ApiError as error:
            if error.status != CONFLICT:  # else another gateway told it
                raise


def note_of(status: Any) -> str:
    """Why the server takes no sessions; empty while its state is an ordinary one."""
    return (status.message or "no reason given") if status.state in REASONS else ""


def micro_time(time: datetime) -> datetime:
    """Never on a full second, whose six zeros the client would leave out and the API server would miss."""
    return time.replace(microsecond=time.microsecond or 1)


def cut(text: str, num_bytes: int) -> str:
    """Without half a character at the end."""
    return text.encode()[:num_bytes].decode(errors="ignore")
