"""Clients under the chaos: they ask for sessions, play them at their own speed, steer them and look on."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.chaos.checks import Check, NoCheck
from benchmarks.chaos.ledger import Ledger
from cascade_client import (
    Attached,
    Client,
    Ended,
    Event,
    MediaInit,
    PromptReceipt,
    Segment,
    Session,
    Skipped,
    StateChanged,
    Stream,
)
from cascade_client.errors import CascadeClientError, SequenceGap, Unavailable

CREATE_S, ATTACH_S = 180.0, 180.0
"""For a gateway to take a session or a client in, whatever is down meanwhile."""
ACT_S = (4.0, 12.0)
"""Between two things that a controller does."""
PAUSE_S = (1.0, 4.0)
MOVE_SHARE = 0.01
"""Of segments after which the client goes on in another process, at another gateway first."""
VIEWER_SHARE = 0.4
"""Of sessions that somebody looks at."""
VIEW_S = (5.0, 30.0)
BETWEEN_S = 0.5
CLOSE_S = 30.0
GONE = {"SESSION_CLOSED", "SESSION_NOT_FOUND"}
PLAYED_SEGMENTS = 64


@dataclass(frozen=True)
class Crowd:
    """Who plays what."""

    num_sessions: int
    """At a time: one that is over is followed by another."""
    num_blocks: tuple[int, int]
    """Of each session, at random."""
    prompts: tuple[str, ...]
    switches: bool
    """Whether controllers change the prompt."""
    make_check: Callable[[int, str], Check]
    """Given seed and prompt."""
    seed: int
    fixed_seed: int | None = None
    """Of all sessions; None: each has its own."""


@dataclass
class Loss:
    """A session that ended before its time, or that its client could not go on with."""

    session: str
    cause: str
    at_s: float
    last_sequence: int
    epoch: int
    excuse: str = ""
    """Why it counts as allowed."""


@dataclass
class Audience:
    """All of them; `clients(n)`: a client of the installation that tries its gateways from the n-th on."""

    crowd: Crowd
    clients: Callable[[int], Client]
    ledgers: list[Ledger] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    viewers_lost: list[Loss] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """Wishes that were not granted, by reason."""
    num_undone: int = 0
    """Resumptions that were granted, and forgotten with the gateway that had granted them."""
    num_complete: int = 0
    is_over: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        for number in range(self.crowd.num_sessions):
            self._tasks.append(asyncio.create_task(self._seat(number), name=f"seat {number}"))

    async def close(self) -> None:
        """All sessions are deleted; returns when they have ended, or do not."""
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

    def lose(self, ledger: Ledger, cause: str) -> None:
        lost = self.viewers_lost if ledger.is_viewer else self.losses
        lost.append(Loss(ledger.name, cause, time.monotonic(), ledger.last, ledger.epoch))

    async def _seat(self, number: int) -> None:
        """One session after the other."""
        await asyncio.sleep(number * BETWEEN_S / 2)
        for turn in range(10**6):
            if self.is_over:
                return
            chance = random.Random(f"{self.crowd.seed} {number} {turn}")
            await Controller(self, chance).run()
            await asyncio.sleep(BETWEEN_S)


class Controller:
    """One session from its creation to its end."""

    def __init__(self, audience: Audience, chance: random.Random) -> None:
        crowd = audience.crowd
        self._audience = audience
        self._chance = chance
        self._num_blocks = chance.randint(*crowd.num_blocks)
        self._prompt = chance.choice(crowd.prompts)
        self._seed = chance.getrandbits(62) if crowd.fixed_seed is None else crowd.fixed_seed
        self._first_gateway = chance.getrandbits(1)
        self._check = crowd.make_check(self._seed, self._prompt)
        self._ledger = Ledger("", self._check, {})
        self._is_paused = False
        self._undone = asyncio.Event()
        self._viewing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """To its end, whatever it is."""
        self._ledger.expect()
        try:
            session = await self._create()
            self._ledger.name = session.name
            self._audience.ledgers.append(self._ledger)
            if self._chance.random() < VIEWER_SHARE:
                gateway = self._first_gateway + 1
                viewer = Viewer(self._audience, self._chance, self._ledger, gateway)
                self._viewing = asyncio.create_task(viewer.run(), name=f"viewer {session.name}")
            token = session.resume_token
            while token:
                token = await self._watch(session, token)
        except CascadeClientError as error:
            self._audience.lose(self._ledger, tell(error))
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
                async with self._audience.clients(self._first_gateway) as client:
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
            self._audience.clients(self._first_gateway) as client,
            client.connect(
                session, resume_token=token, after_sequence=after, auto_ack=False, attach_within_s=ATTACH_S
            ) as stream,
        ):
            if after:
                stream.ack(after)  # what the process before had not played is not shown again
            player = Player(stream)
            helpers = [asyncio.create_task(each) for each in (self._act(stream), self._end(client, session))]
            try:
                async for event in stream:
                    if self._take(event, player) and not self._is_paused:
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

    def _take(self, event: Event, player: "Player") -> bool:
        """Whether to go on elsewhere."""
        match event:
            case Segment():
                self._ledger.take(event)
                player.put(event)
                return self._chance.random() < MOVE_SHARE
            case MediaInit():
                self._ledger.init = event.data
            case PromptReceipt():
                self._check.hears(event)
            case Attached():
                for receipt in event.receipts:
                    self._check.hears(receipt)
            case StateChanged(paused=True) if not self._is_paused:
                self._is_paused = True
                self._audience.num_undone += 1
                self._ledger.expect_nothing()
                self._undone.set()
            case Ended():
                self._judge(event)
        return False

    def _judge(self, ended: Ended) -> None:
        ledger = self._ledger
        is_complete = (ended.reason, ledger.last) == ("COMPLETE", self._num_blocks)
        if is_complete:
            self._audience.num_complete += 1
        elif not (ended.reason == "DELETED" and self._audience.is_over):
            if ended.reason == "COMPLETE":
                ledger.num_lost += self._num_blocks - ledger.last
            detail = f": {tell(ended.error)}" if ended.error else ""
            self._audience.lose(ledger, f"ended as {ended.reason}{detail}")

    async def _act(self, stream: Stream) -> None:
        """Steer, now and then."""
        while True:
            if self._is_paused:
                await self._resume(stream)
            self._undone.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._chance.uniform(*ACT_S)):
                    await self._undone.wait()
                    continue
            try:
                if not self._audience.crowd.switches or self._chance.random() < 0.35:
                    self._is_paused = True
                    self._ledger.expect_nothing()
                    await stream.pause()
                    await asyncio.sleep(self._chance.uniform(*PAUSE_S))
                else:
                    await self._switch(stream)
            except CascadeClientError as error:
                self._audience.refused[tell(error, is_short=True)] += 1

    async def _resume(self, stream: Stream) -> None:
        """It must be granted: the session goes on for nobody else's sake."""
        while self._is_paused:
            try:
                await stream.resume()
            except CascadeClientError as error:
                self._audience.refused[tell(error, is_short=True)] += 1
                await asyncio.sleep(BETWEEN_S)
            else:
                self._is_paused = False
                self._ledger.expect()

    async def _switch(self, stream: Stream) -> None:
        request_id = f"switch-{self._chance.getrandbits(64):x}"
        text = self._chance.choice(self._audience.crowd.prompts)
        self._check.asks(request_id, text)
        await stream.switch(text, request_id=request_id)

    async def _end(self, client: Client, session: Session) -> None:
        """Once all is over."""
        while not self._audience.is_over:  # noqa: ASYNC110 (no event: it is looked at seldom)
            await asyncio.sleep(BETWEEN_S)
        self._ledger.expect_nothing()
        with suppress(CascadeClientError):
            await client.delete(session)


class Player:
    """Acknowledges each segment when its playing begins."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting: asyncio.Queue[Segment] = asyncio.Queue(PLAYED_SEGMENTS)
        self.task = asyncio.create_task(self._run(), name="player")

    def put(self, segment: Segment) -> None:
        self._waiting.put_nowait(segment)

    async def _run(self) -> None:
        ends_s = 0.0
        while True:
            segment = await self._waiting.get()
            starts_s = max(ends_s, time.monotonic())
            await asyncio.sleep(starts_s - time.monotonic())
            self._stream.ack(segment.sequence)
            ends_s = starts_s + segment.duration_s


class Viewer:
    """Looks on for a while, mostly at another gateway than the controller's."""

    def __init__(self, audience: Audience, chance: random.Random, controller: Ledger, gateway: int) -> None:
        self._audience = audience
        self._session = controller.name
        self._gateway = gateway
        self._seconds = chance.uniform(*VIEW_S)
        self._ledger = Ledger(controller.name, NoCheck(), controller.digests, is_viewer=True)

    async def run(self) -> None:
        self._audience.ledgers.append(self._ledger)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._watch()
        except CascadeClientError as error:
            if error.reason not in GONE:
                self._audience.lose(self._ledger, tell(error))

    async def _watch(self) -> None:
        ledger = self._ledger
        async with (
            self._audience.clients(self._gateway) as client,
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


def tell(error: CascadeClientError, *, is_short: bool = False) -> str:
    name = error.reason or error.code.name
    return name if is_short else f"{name}: {error}"
