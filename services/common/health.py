"""Health that follows progress: the standard health service, set from conditions that are looked at again
and again. It is served by the event loop, so a blocked loop answers nothing, which probes count as failure.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as grpc_health

from services.common.settings import HealthSettings

log = structlog.get_logger(__name__)
SET_DEADLINE_S = 1.0
LIVE = "live"
"""A name that serves until SIGTERM, whatever the conditions say: for liveness probes, since a process whose
GPU is broken, or that drains, still has sessions. No answer means that the event loop does not turn."""

Condition = Callable[[], str | None]
"""Why this process cannot serve now; None: it can. Called often, must return at once."""


class Heartbeat:
    """Progress, which is missed only while there is something to do: an idle service is healthy."""

    def __init__(self, name: str, stall_after_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`name`: what makes progress, for the reason given (`ticks`)."""
        self.name = name
        self._stall_after_s = stall_after_s
        self._clock = clock
        self._waiting_since: float | None = None

    def advance(self) -> None:
        """Something got done; whether more waits stays as it was."""
        if self._waiting_since is not None:
            self._waiting_since = self._clock()

    def set_waiting(self, is_waiting: bool) -> None:
        """Whether work waits for us. The clock starts when it begins to wait, not with each further piece."""
        if not is_waiting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self._clock()

    def complaint(self) -> str | None:
        """A Condition: no progress for too long while work waits."""
        since = self._waiting_since  # once: metrics ask from another thread
        if since is None:
            return None
        stalled_s = self._clock() - since
        return f"no {self.name} for {stalled_s:.1f} s" if stalled_s >= self._stall_after_s else None


class HealthMonitor:
    """Keeps the health service true. NOT_SERVING until the first look, and for good once draining."""

    def __init__(
        self, settings: HealthSettings, names: Sequence[str], conditions: Sequence[Condition]
    ) -> None:
        """`names`: full names of the gRPC services; the empty one, the whole server, is always among them."""
        self.servicer = grpc_health.HealthServicer()
        self._settings = settings
        self._names = ["", *names]
        self._conditions = conditions
        self._complaint: str | None = "starting"

    async def start(self) -> None:
        await self._tell(is_serving=False)
        await self.servicer.set(LIVE, health_pb2.HealthCheckResponse.SERVING)

    async def run(self) -> None:
        """Look at the conditions until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._settings.check_interval_s)

    async def look(self) -> None:
        complaint = first_complaint(self._conditions)
        if (complaint is None) == (self._complaint is None):
            return
        if not await self._tell(is_serving=complaint is None):
            return
        self._complaint = complaint
        if complaint:
            log.warning("not serving", reason=complaint)
        else:
            log.info("serving")

    async def leave(self) -> None:
        """NOT_SERVING for good."""
        try:
            async with asyncio.timeout(SET_DEADLINE_S):
                await self.servicer.enter_graceful_shutdown()
        except TimeoutError:
            log.warning("a health watcher that does not read was left out")

    async def _tell(self, *, is_serving: bool) -> bool:
        """False if a watcher that stopped reading held the service's lock: to be tried again."""
        answer = health_pb2.HealthCheckResponse
        status = answer.SERVING if is_serving else answer.NOT_SERVING
        try:
            async with asyncio.timeout(SET_DEADLINE_S):
                for name in self._names:
                    await self.servicer.set(name, status)
        except TimeoutError:
            log.warning("health could not be set: a watcher does not read")
            return False
        return True


def first_complaint(conditions: Sequence[Condition]) -> str | None:
    """A condition that fails to answer is a complaint too."""
    for condition in conditions:
        try:
            complaint = condition()
        except Exception as error:
            log.exception("a health condition failed")
            return f"a health condition failed: {type(error).__name__}"
        if complaint is not None:
            return complaint
    return None
