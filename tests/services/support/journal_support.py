"""Journals on one store, and what is written into them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from services.gateway.journal import (
    Behind,
    Change,
    Journal,
    LatentsMade,
    Lease,
    Limits,
    MemoryJournal,
    NewSession,
    PromptAccepted,
    PromptApplied,
    RedisStore,
    ReplicatedJournal,
    SegmentMade,
    connect,
)
from tests.services.support.redis_support import RedisServer

LEASE_S = 30.0
WAIT_S = 20.0
LIMITS = Limits(
    num_sink_blocks=1, num_recent_blocks=3, num_segments=4, num_prompts=4, num_requests=3, max_bytes=10_000
)


@dataclass
class Clock:
    """Injected time; Redis's scripts are given it, too."""

    now_s: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Site:
    """Several gateways on one store: `journal(n)` is the one that gateway n sees."""

    def __init__(self, server: RedisServer | None) -> None:
        self.clock = Clock()
        self.server = server
        self._journals: dict[int, Journal] = {}

    def journal(self, number: int = 0) -> Journal:
        if number not in self._journals:
            self._journals[number] = self._open(number)
        return self._journals[number]

    def _open(self, number: int) -> Journal:
        if self.server is None:
            return self.journal(0) if number else MemoryJournal(clock=self.clock)
        return replicated(self.server, self.clock)

    async def close(self) -> None:
        for journal in self._journals.values():
            await journal.close()


def replicated(
    server: RedisServer,
    clock: Clock | None = None,
    call_timeout_s: float = 5.0,
    grace_s: float = 0.0,
    **options: Any,
) -> ReplicatedJournal:
    options = {"beside_bytes": 2000, **options}  # some go beside the script
    store = RedisStore(connect(server.url), "test", clock=clock, call_timeout_s=call_timeout_s, **options)
    local = {"clock": clock} if clock else {}
    return ReplicatedJournal(store, retry_s=(0.01, 0.05), takeover_grace_s=grace_s, **local)


def new(session: str = "s1", request_id: str = "", **values: Any) -> NewSession:
    values = {"specification": b"\x00spec\xff", "prompts": {0: "a red circle"}, "limits": LIMITS} | values
    return NewSession(session, values.pop("tenant", "acme"), request_id=request_id, **values)


def latents(block: int, size: int = 10) -> LatentsMade:
    return LatentsMade(block, bytes([block % 256, 0, 255, 13, 10]) * (size // 5))


def segment(block: int, size: int = 10) -> SegmentMade:
    return SegmentMade(block, bytes([block % 256]) * size)


def switch(request_id: str, prompt: str = "blue", at_block: int | None = None) -> PromptAccepted:
    return PromptAccepted(request_id, prompt, "boundary", at_block, 1_700_000_000_123)


def applied(request_id: str, touched: int, full: int) -> PromptApplied:
    return PromptApplied(request_id, touched, full, 1_700_000_000_456, ("zorgle",))


def blocks(first: int, end: int) -> list[Change]:
    return [change for block in range(first, end) for change in (latents(block), segment(block))]


async def opened(journal: Journal, owner: str = "a", session: str = "s1", **values: Any) -> Lease:
    lease = (await journal.create(new(session, **values), owner, LEASE_S)).lease
    assert lease
    return lease


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)


async def caught_up(journal: ReplicatedJournal) -> None:
    await until(lambda: journal.is_connected and journal.behind() == Behind())
