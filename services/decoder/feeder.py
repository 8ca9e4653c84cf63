"""Keeps one worker process busy while it lives: jobs in the queue's order, each with its deadline."""

import asyncio
from collections.abc import Callable

from services.decoder.fair_queue import FairQueue
from services.decoder.messages import Job, PartEncoded, Ping, Reply
from services.decoder.process import WorkerLost, WorkerProcess

MAX_AHEAD = 2
"""Jobs at the worker: one decodes while the one before is encoded."""
PING_S = 5.0
"""An idle worker is asked this often whether it is there."""
PING_KEY = -1
"""The pings' own line in the queue; sessions count from 0."""


class Feeder:
    """One worker's time from ready to lost."""

    def __init__(
        self,
        process: WorkerProcess,
        queue: FairQueue[int, Job],
        deadline_s: float,
        take: Callable[[Reply], None],
    ) -> None:
        """`take` gets each reply; what it raises is the end of the worker."""
        self.process = process
        self.num_ahead = 0
        """Jobs sent and not answered."""
        self.wakeup = asyncio.Event()
        """To be set whenever something was put into the queue."""
        self._queue = queue
        self._deadline_s = deadline_s
        self._take = take
        self._timer = asyncio.timeout(None)

    async def run(self) -> None:
        """Raises WorkerLost, sooner or later."""
        try:
            async with self._timer, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed(), name="feed")
                tasks.create_task(self._listen(), name="listen")
        except TimeoutError:
            raise WorkerLost(f"it did not answer within {self._deadline_s:g} s") from None
        except ExceptionGroup as group:
            for error in group.exceptions:
                if isinstance(error, WorkerLost):
                    raise error from None
            raise WorkerLost(f"it answered what makes no sense: {group.exceptions[0]!r}") from group

    async def _feed(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PING_S):
                    await self.wakeup.wait()
            except TimeoutError:
                self._queue.push(PING_KEY, Ping())
            self.wakeup.clear()
            while self._queue and self.num_ahead < MAX_AHEAD:
                job = self._queue.pop()
                self.num_ahead += 1
                self._set_deadline()
                await self.process.send(job)

    async def _listen(self) -> None:
        while True:
            reply = await self.process.receive()
            self.num_ahead -= not isinstance(reply, PartEncoded)
            self._set_deadline(renew=True)
            self.wakeup.set()
            self._take(reply)

    def _set_deadline(self, *, renew: bool = False) -> None:
        """Something has to be answered while anything is at the worker."""
        if not self.num_ahead:
            self._timer.reschedule(None)
        elif renew or self._timer.when() is None:
            self._timer.reschedule(asyncio.get_running_loop().time() + self._deadline_s)
