"""A stage or a decoder, as its reports show it."""

from typing import Any, Generic, TypeVar

import grpc

from services.gateway.wakeup import Wakeup

S = TypeVar("S")
"""StageStatus or DecoderStatus."""


class Peer(Generic[S]):
    """One address, over all processes that serve there one after the other."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.channel = channel
        self.status: S | None = None
        """The newest report; None while the peer is gone."""
        self._reason = f"{address}: has not reported yet"
        self._num_losses = 0
        self._wakeup = Wakeup()

    @property
    def is_gone(self) -> bool:
        return self.status is None

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

    async def wait_gone(self) -> str:
        """Return why the process that serves there now is lost; waits for as long as all is well."""
        num_losses = self._num_losses
        while not self.is_gone and self._num_losses == num_losses:
            await self._wakeup.wait()
        return self._reason


def instance_of(status: Any) -> str:
    """Of the process that a report is about."""
    return str(status.server.instance_id)
