"""A client that asks for a session, plays it at its own speed and steers it, to its end."""

import asyncio
import random
import time
from contextlib import suppress

from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.player import Player
from benchmarks.chaos.steering import Steering
from benchmarks.chaos.tally import ATTACH_S, Tally, tell
from benchmarks.chaos.viewer import Viewer
from cascade_client import (
    Attached,
    CascadeClientError,
    Client,
    Ended,
    Event,
    MediaInit,
    PromptReceipt,
    Segment,
    SequenceGap,
    Session,
    StateChanged,
)
from cascade_client.errors import Unavailable

CREATE_S = 180.0
"""For a gateway to take a session in, whatever is down meanwhile."""
MOVE_SHARE = 0.01
"""Of segments after which it goes on in another process, at another gateway first."""
VIEWER_SHARE = 0.4
"""Of sessions that somebody looks at."""
LOOK_S = 0.5


class Controller:
    """One session from its creation to its end."""

    def __init__(self, tally: Tally, chance: random.Random) -> None:
        crowd = tally.crowd
        self._tally = tally
        self._chance = chance
        self._num_blocks = chance.randint(*crowd.num_blocks)
        self._prompt = chance.choice(crowd.prompts)
        self._seed = chance.getrandbits(62) if crowd.fixed_seed is None else crowd.fixed_seed
        self._first_gateway = chance.getrandbits(1)
        self._ledger = Ledger("", crowd.make_check(self._seed, self._prompt), {})
        self._steering = Steering(tally, chance, self._ledger)
        self._viewing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """To its end, whatever it is."""
        self._ledger.expect()
        try:
            session = await self._create()
            self._ledger.name = session.name
            self._tally.ledgers.append(self._ledger)
            if self._chance.random() < VIEWER_SHARE:
                gateway = self._first_gateway + 1
                viewer = Viewer(self._tally, self._chance, self._ledger, gateway)
                self._viewing = asyncio.create_task(viewer.run(), name=f"viewer {session.name}")
            token = session.resume_token
            while token:
                token = await self._watch(session, token)
        except CascadeClientError as error:
            self._tally.lose(self._ledger, tell(error))
        finally:
            self._ledger.expect_nothing()
            if self._viewing:
                self._viewing.cancel()
                await asyncio.gather(self._viewing, return_exceptions=True)

    async def _create(self) -> Session:
        """With one request_id, however often it is asked."""
        request_id = f"create-{self._chance.getrandbits(64):x}"
        give_up_at = time.monotonic() + CREATE_S
        while True:
            try:
                async with self._tally.clients(self._first_gateway) as client:
                    return await client.create(
                        self._prompt, seed=self._seed, num_blocks=self._num_blocks, request_id=request_id
                    )
            except Unavailable:
                if time.monotonic() > give_up_at:
                    raise

    async def _watch(self, session: Session, token: str) -> str:
        """As one process of a client does; the token to go on with in another, empty: the session is over."""
        ledger = self._ledger
        after = ledger.last
        async with (
            self._tally.clients(self._first_gateway) as client,
            client.connect(
                session, resume_token=token, after_sequence=after, auto_ack=False, attach_within_s=ATTACH_S
            ) as stream,
        ):
            if after:
                stream.ack(after)  # what the process before had not played is not shown again
            player = Player(stream)
            work = (self._steering.run(stream), self._end(client, session))
            helpers = [asyncio.create_task(each) for each in work]
            try:
                async for event in stream:
                    if self._take(event, player) and not self._steering.is_paused:
                        self._first_gateway += 1
                        return stream.resume_token
            except SequenceGap as gap:
                ledger.num_lost += gap.received - gap.expected
                raise
            finally:
                ledger.num_repeated += stream.num_repeated
                for task in (*helpers, player.task):
                    task.cancel()
                await asyncio.gather(*helpers, player.task, return_exceptions=True)
        return ""

    def _take(self, event: Event, player: Player) -> bool:
        """Whether to go on elsewhere."""
        match event:
            case Segment():
                self._ledger.take(event)
                player.put(event)
                return self._chance.random() < MOVE_SHARE
            case MediaInit():
                self._ledger.init = event.data
            case PromptReceipt():
                self._ledger.check.hears(event)
            case Attached():
                for receipt in event.receipts:
                    self._ledger.check.hears(receipt)
            case StateChanged(paused=True):
                self._steering.is_told_paused()
            case Ended():
                self._judge(event)
        return False

    def _judge(self, ended: Ended) -> None:
        ledger = self._ledger
        is_complete = (ended.reason, ledger.last) == ("COMPLETE", self._num_blocks)
        if not (is_complete or (ended.reason == "DELETED" and self._tally.is_over)):
            if ended.reason == "COMPLETE":
                ledger.num_lost += self._num_blocks - ledger.last
            detail = f": {tell(ended.error)}" if ended.error else ""
            self._tally.lose(ledger, f"ended as {ended.reason}{detail}")

    async def _end(self, client: Client, session: Session) -> None:
        """Once all is over."""
        while not self._tally.is_over:  # noqa: ASYNC110 (no event: it is looked at seldom)
            await asyncio.sleep(LOOK_S)
        self._ledger.expect_nothing()
        with suppress(CascadeClientError):
            await client.delete(session)
