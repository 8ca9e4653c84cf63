"""Clients under the chaos: sessions are played, one after the other in each seat."""

import asyncio
import random
from dataclasses import dataclass, field

from benchmarks.chaos.controller import Controller
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.tally import Tally

BETWEEN_S = 0.5
"""Between two sessions of a seat, and the first of two seats."""
CLOSE_S = 30.0
SESSIONS = 10**6


@dataclass
class Audience(Tally):
    """As many sessions at a time as the crowd has."""

    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        for number in range(self.crowd.num_sessions):
            self._tasks.append(asyncio.create_task(self._seat(number), name=f"seat {number}"))

    async def close(self) -> None:
        """All sessions are deleted; returns when they have ended, or did not in `CLOSE_S`."""
        self.is_over = True
        _, pending = await asyncio.wait(self._tasks, timeout=CLOSE_S)
        for task in pending:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()):
                raise error

    def waiting(self) -> list[Ledger]:
        """Whose next segment is due."""
        return [ledger for ledger in self.ledgers if ledger.waiting_since_s is not None]

    async def _seat(self, number: int) -> None:
        """One session after the other."""
        await asyncio.sleep(number * BETWEEN_S)
        for turn in range(SESSIONS):
            if self.is_over:
                return
            await Controller(self, random.Random(f"{self.crowd.seed} {number} {turn}")).run()
            await asyncio.sleep(BETWEEN_S)
