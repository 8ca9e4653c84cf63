"""A rolling upgrade under sessions that are watched, and what their viewers saw of each step."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cascade_client import Client
from tests.services.support.fleet import Fleet, Kind, Step, Way
from tests.services.support.playing import Played, Player, playing

PROMPTS = ("a red circle moves left on a white background", "a blue square moves up on a black background")
CREDIT = 4
"""Segments that a gateway lets be made beyond the last ack, unless it is asked for another number."""
DEADLINE_S = 1800.0
"""Of a whole rehearsal."""
Upgrade = tuple[Kind, Way]
ROLLING: tuple[Upgrade, ...] = (
    ("stage", "surge"),
    ("decoder", "surge"),
    ("gateway", "surge"),
    ("stage", "in place"),
    ("decoder", "in place"),
    ("gateway", "in place"),
)
"""Everything twice: as where a spare node exists, and as where none does."""


@dataclass(frozen=True)
class Seen:
    """One step, as all clients together saw it."""

    step: Step
    stall_s: float
    """The longest that a segment came later after its predecessor than that one lasts."""
    stall_ratio: float
    """The longest time between two segments, as a multiple of what the first lasts."""
    standstill_s: float
    """The longest that a picture stood still."""
    recoveries: Counter[tuple[str, str]]
    """As the gateways count: how many of each cause and class."""


@dataclass(frozen=True)
class Rehearsal:
    """What came of it."""

    seen: list[Seen]
    played: list[Played]
    fps: int

    def check(self) -> None:
        """Nobody lost anything: each segment came once, in order, as one valid video that decodes."""
        for played in self.played:
            num_blocks = len(played.segments)
            played.check_gapless(num_blocks, self.fps)
            assert played.ended.reason == "DELETED"
        for seen in self.seen:
            assert seen.step.status == 0, f"{seen.step} ended with {seen.step.status}"


class Audience:
    """Clients of one session each, that play it."""

    def __init__(self, fleet: Fleet, fps: int) -> None:
        self.players: list[Player] = []
        self.fps = fps
        self._fleet = fleet
        self._num_recovered = 0

    async def settle(self) -> None:
        """Until everybody has got a segment that nobody could have made before now."""
        await asyncio.gather(*(player.reached(player.num_acked + CREDIT + 1) for player in self.players))

    def judge(self, step: Step) -> Seen:
        """From its beginning until now."""
        waits = [wait for player in self.players for wait in waits_of(player.played, step.start_s)]
        pauses = [
            seconds
            for player in self.players
            for at_s, seconds in player.played.standstills
            if at_s > step.start_s
        ]
        return Seen(
            step,
            stall_s=max(wait.seconds - wait.duration_s for wait in waits),
            stall_ratio=max(wait.seconds / wait.duration_s for wait in waits),
            standstill_s=max(pauses, default=0.0),
            recoveries=self._recovered(),
        )

    def _recovered(self) -> Counter[tuple[str, str]]:
        """Since the last time."""
        found = [line for program in self._fleet.programs for line in program.logged("recovered")]
        found.sort(key=lambda line: line["timestamp"])
        news, self._num_recovered = found[self._num_recovered :], len(found)
        return Counter((short(line["cause"]), short(line["recovery_class"])) for line in news)


@dataclass(frozen=True)
class Wait:
    """Between two segments of one session."""

    seconds: float
    duration_s: float
    """How long the first lasts."""


def waits_of(played: Played, since_s: float) -> Iterator[Wait]:
    """Those that ended later."""
    arrivals, segments = played.arrivals_s, played.segments
    for number in range(1, len(segments)):
        if arrivals[number] > since_s:
            yield Wait(arrivals[number] - arrivals[number - 1], segments[number - 1].duration_s)


def short(name: str) -> str:
    """Of RecoveryCause and RecoveryClass."""
    return name.removeprefix("RECOVERY_CAUSE_").removeprefix("RECOVERY_CLASS_")


@asynccontextmanager
async def watching(fleet: Fleet, num_sessions: int, fps: int) -> AsyncIterator[Audience]:
    """Endless sessions, each watched through a connection of its own; deleted at the end, and then played to
    their end."""
    audience = Audience(fleet, fps)
    async with AsyncExitStack() as stack:
        ending = []
        for number in range(num_sessions):
            client = await stack.enter_async_context(Client(fleet.front.address))
            session = await client.create(PROMPTS[number % len(PROMPTS)], seed=number, fps=fps)
            player = await stack.enter_async_context(playing(client, session, deadline_s=DEADLINE_S))
            audience.players.append(player)
            ending.append((client, session))
        await audience.settle()
        yield audience
        await asyncio.gather(*(client.delete(session) for client, session in ending))


async def rehearse(
    fleet: Fleet,
    upgrades: Sequence[Upgrade],
    num_sessions: int,
    fps: int,
    tell: Callable[[Seen], None] = lambda _: None,
) -> Rehearsal:
    """Replace what `upgrades` says under so many sessions. `tell`: after each step."""
    seen: list[Seen] = []
    async with watching(fleet, num_sessions, fps) as audience:
        for kind, way in upgrades:
            async for step in fleet.replace(kind, way):
                await audience.settle()
                seen.append(audience.judge(step))
                tell(seen[-1])
    return Rehearsal(seen, [player.played for player in audience.players], fps)
