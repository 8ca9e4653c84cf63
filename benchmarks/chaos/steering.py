"""What a controller does to its session while it plays: it pauses, resumes and switches the prompt."""

import asyncio
import random
from contextlib import suppress

from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.tally import Tally, tell
from cascade_client import CascadeClientError, Stream

ACT_S = (4.0, 12.0)
"""Between two things that it does."""
PAUSE_S = (1.0, 4.0)
PAUSE_SHARE = 0.35
"""Of what it does; the rest are switches."""
AGAIN_S = 0.5


class Steering:
    """Of one session, over all streams of its controller."""

    def __init__(self, tally: Tally, chance: random.Random, ledger: Ledger) -> None:
        self.is_paused = False
        """As was asked for last."""
        self._tally = tally
        self._chance = chance
        self._ledger = ledger
        self._undone = asyncio.Event()

    def is_told_paused(self) -> None:
        """It is paused, whoever asked for it: if nobody, a resumption was granted and forgotten."""
        if not self.is_paused:
            self.is_paused = True
            self._tally.num_undone += 1
            self._ledger.expect_nothing()
            self._undone.set()

    async def run(self, stream: Stream) -> None:
        """Until it is cancelled."""
        while True:
            if self.is_paused:
                await self._resume(stream)
            self._undone.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._chance.uniform(*ACT_S)):
                    await self._undone.wait()
                    continue
            try:
                await self._act(stream)
            except CascadeClientError as error:
                self._tally.refused[tell(error, is_short=True)] += 1

    async def _act(self, stream: Stream) -> None:
        if self._tally.crowd.switches and self._chance.random() > PAUSE_SHARE:
            await self._switch(stream)
            return
        self.is_paused = True
        self._ledger.expect_nothing()
        await stream.pause()
        await asyncio.sleep(self._chance.uniform(*PAUSE_S))

    async def _resume(self, stream: Stream) -> None:
        """It must be granted: the session goes on for nobody else's sake."""
        while self.is_paused:
            try:
                await stream.resume()
            except CascadeClientError as error:
                self._tally.refused[tell(error, is_short=True)] += 1
                await asyncio.sleep(AGAIN_S)
            else:
                self.is_paused = False
                self._ledger.expect()

    async def _switch(self, stream: Stream) -> None:
        request_id = f"switch-{self._chance.getrandbits(64):x}"
        text = self._chance.choice(self._tally.crowd.prompts)
        self._ledger.check.asks(request_id, text)
        await stream.switch(text, request_id=request_id)
