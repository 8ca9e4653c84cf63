"""A stage or a decoder, as its reports show it."""

from typing import Any, Generic, TypeVar

import grpc

from services.common.wakeup import Wakeup
from services.gateway.peers.endpoints import Endpoint, Pod

S = TypeVar("S")
"""StageStatus or DecoderStatus."""


class Peer(Generic[S]):
    """One address, over all processes that serve there one after the other; of one pod."""

    def __init__(self, address: str, channel: grpc.aio.Channel, pod: Pod | None = None) -> None:
        self.address = address
        self.channel = channel
        self.pod = pod
        """None: not known to be a pod."""
        self.is_terminating = False
        """Kubernetes told it to go: nobody is placed there, and whoever is there moves."""
        self.status: S | None = None
        """The newest report; None while the peer is gone."""
        self._reason = f"{address}: has not reported yet"
        self._num_losses = 0
        self._wakeup = Wakeup()

    @property
    def is_gone(self) -> bool:
        return self.status is None

    @property
    def lost_because(self) -> str:
        """Why there is no report; empty where there is one."""
        return self._reason if self.is_gone else ""

    @property
    def instance_id(self) -> str:
        """Of the process that serves there; empty while it is gone."""
        return instance_of(self.status) if self.status else ""

    def report(self, status: S) -> None:
        """Take its newest report."""
        if self.status and self.instance_id != instance_of(status):
            self.lose("was started again")
        self.status = status

    def lose(self, reason: str) -> None:
        """What it held is lost; it may come back."""
        self.status = None
        self._reason = f"{self.address}: {reason}"
        self._num_losses += 1
        self._wakeup.fire()

    def is_at(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint is this server, as far as pods are known."""
        is_other_pod = self.pod and endpoint.pod and self.pod.uid != endpoint.pod.uid
        return self.address == endpoint.address and not is_other_pod

    def notice(self, endpoint: Endpoint) -> bool:
        """Take what the list says of it; True if that is news."""
        before = self.pod, self.is_terminating
        self.pod, self.is_terminating = endpoint.pod or self.pod, endpoint.is_terminating
        if before == (self.pod, self.is_terminating):
            return False
        self._wakeup.fire()
        return True

    async def wait_terminating(self) -> None:
        """Until Kubernetes told it to go; waits for as long as all is well."""
        while not self.is_terminating:
            await self._wakeup.wait()

    async def wait_gone(self) -> str:
        """Return why the process that serves there now is lost; waits for as long as all is well."""
        num_losses = self._num_losses
        while not self.is_gone and self._num_losses == num_losses:
            await self._wakeup.wait()
        return self._reason


def instance_of(status: Any) -> str:
    """Of the process that a report is about."""
    return str(status.server.instance_id)
