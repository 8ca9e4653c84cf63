"""Somebody who looks at another one's session for a while."""

import asyncio
import random
from contextlib import suppress

from benchmarks.chaos.checks import NoCheck
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.tally import ATTACH_S, Tally, tell
from cascade_client import CascadeClientError, Segment, Skipped

VIEW_S = (5.0, 30.0)
GONE = {"SESSION_CLOSED", "SESSION_NOT_FOUND"}


class Viewer:
    """Looks on for a while, mostly at another gateway than the controller's."""

    def __init__(self, tally: Tally, chance: random.Random, controller: Ledger, gateway: int) -> None:
        self._tally = tally
        self._session = controller.name
        self._gateway = gateway
        self._seconds = chance.uniform(*VIEW_S)
        self._ledger = Ledger(controller.name, NoCheck(), controller.digests, is_viewer=True)

    async def run(self) -> None:
        self._tally.ledgers.append(self._ledger)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._watch()
        except CascadeClientError as error:
            if error.reason not in GONE:
                self._tally.lose(self._ledger, tell(error))

    async def _watch(self) -> None:
        ledger = self._ledger
        async with (
            self._tally.clients(self._gateway) as client,
            client.connect(self._session, role="viewer", attach_within_s=ATTACH_S) as stream,
        ):
            try:
                async for event in stream:
                    if isinstance(event, Segment):
                        ledger.take(event)
                    elif isinstance(event, Skipped):
                        ledger.skip()
            finally:
                ledger.num_repeated += stream.num_repeated
