"""A planned end: no new sessions, and the open ones are asked to move until a deadline."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from cascade.v1 import common_pb2, decoder_pb2, stage_pb2
from services.common.durations import to_duration, to_seconds
from services.common.errors import Draining, RequestIdReused

MAX_REQUESTS = 1024
"""Drain calls that are remembered: enough for much longer than an hour."""
MAX_REASON = 256
"""Characters of a reason, as the contract says."""
DRAINING = "this server is draining: open the session elsewhere"
OVER = "the time to move away is over: open the session elsewhere"


Request: TypeAlias = stage_pb2.StageServiceDrainRequest | decoder_pb2.DecoderServiceDrainRequest


def nothing() -> None:
    """For servers whose streams wait for the drain themselves."""


class Drain:
    """Begins once, can only come nearer, is never taken back. Belongs to one event loop."""

    def __init__(self, on_begin: Callable[[], None] = nothing, on_over: Callable[[], None] = nothing) -> None:
        """`on_begin`: called once. `on_over`: called when the time is over."""
        self.begun = asyncio.Event()
        self.reason = ""
        self._on_begin = on_begin
        self._on_over = on_over
        self._over = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._seen: OrderedDict[str, bytes] = OrderedDict()

    @property
    def time_left_s(self) -> float:
        """0 where the time is over; to be asked only once it has begun."""
        assert self._timer, "it has begun"
        return max(0.0, self._timer.when() - asyncio.get_running_loop().time())

    def begin(self, timeout_s: float, reason: str) -> None:
        """Streams end after that time, or sooner where an earlier call said so."""
        if self._timer and self.time_left_s <= timeout_s:
            return
        self.close()
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._end)
        self.reason = reason or self.reason
        if not self.begun.is_set():
            self.begun.set()
            self._on_begin()

    def answer(self, request: Request, default_s: float) -> None:
        """Do what a Drain call asks, once: a repeat does nothing. Raises RequestIdReused."""
        content = request.SerializeToString(deterministic=True)
        known = self._seen.setdefault(request.request_id, content)
        if known != content:
            raise RequestIdReused(f"request_id {request.request_id} was used for another drain")
        if len(self._seen) > MAX_REQUESTS:
            self._seen.popitem(last=False)
        timeout_s = to_seconds(request.timeout) if request.HasField("timeout") else default_s
        self.begin(timeout_s, request.reason)

    def require_idle(self) -> None:
        """Raises Draining once it has begun."""
        if self.begun.is_set():
            raise Draining(DRAINING)

    async def watch(self) -> None:
        """Raises Draining at the deadline; until then it does not return."""
        await self._over.wait()
        raise Draining(OVER)

    def status(self, num_sessions: int) -> common_pb2.DrainStatus | None:
        """None while it has not begun."""
        if not self.begun.is_set():
            return None
        return common_pb2.DrainStatus(
            num_sessions=num_sessions,
            time_left=to_duration(self.time_left_s),
            safe_to_delete=num_sessions == 0,
            reason=self.reason,
        )

    def close(self) -> None:
        """Stop the clock: `on_over` is not called any more."""
        if self._timer:
            self._timer.cancel()

    def _end(self) -> None:
        self._over.set()
        self._on_over()
