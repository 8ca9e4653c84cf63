"""One installation, its sessions and its faults, from start to end."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos.audience import Audience
from benchmarks.chaos.crowds import make_crowd, strangers
from benchmarks.chaos.faults import steps
from benchmarks.chaos.inflict import Inflicted, Inflictor
from benchmarks.chaos.installation import Installation, Shape, marked, running
from benchmarks.chaos.outages import Span
from benchmarks.chaos.programs import START_S
from cascade_client import Client

BURST = 50
"""Faults after which all that is down comes up again, and every session has to go on."""
GO_ON_S = 45.0
"""For every session to get a segment once everything is up."""
ALL_UP_S = START_S
LOOK_S = 0.1
ENDS_S = 3.0
"""For a process whose starter is gone."""
RETRY_S = 60.0
MAY_BE_DOWN = {"stage": 1, "decoder": 1, "gateway": 1, "Redis": 0}
"""How many of each may be down while there is still a place for everybody."""


@dataclass(frozen=True)
class Plan:
    """Of one run."""

    number: int
    seed: int
    kills: int
    pace_s: float
    num_sessions: int
    """At a time."""
    shape: Shape
    ends_at_s: float
    """On this process's clock: no fault comes later."""


@dataclass
class Outcome:
    """What became of it."""

    plan: Plan
    start_s: float = 0.0
    end_s: float = 0.0
    inflicted: list[Inflicted] = field(default_factory=list)
    audience: Audience | None = None
    outages: list[Span] = field(default_factory=list)
    """When anything was down."""
    shortages: list[Span] = field(default_factory=list)
    """When so much was down that not everybody could go on."""
    unwatched: list[Span] = field(default_factory=list)
    """When no gateway was there, or no Redis: nobody could take over what a gateway had left."""
    orphans: list[tuple[float, str]] = field(default_factory=list)
    """When they were found, and what they ran."""
    standing: list[tuple[float, str]] = field(default_factory=list)
    """When it was noticed, and which sessions got nothing though everything was up, or what was not up."""
    before: dict[str, int] = field(default_factory=dict)
    """Bytes of memory by kind, before the first session."""
    after: dict[str, int] = field(default_factory=dict)
    """When the last had ended."""


Tell = Callable[[Outcome], None]


async def run(plan: Plan, folder: Path, tell: Tell) -> Outcome:
    """`tell`: after each fault. Raises TimeoutError where the installation does not come up at first."""
    outcome = Outcome(plan)
    async with running(plan.shape, folder) as installation:
        await installation.ready()
        outcome.before = installation.rss_bytes()
        clients = doors(installation)
        crowd = await make_crowd(plan.shape.engine, plan.seed, plan.num_sessions, clients)
        audience = outcome.audience = Audience(crowd, clients)
        inflictor = Inflictor(installation, outcome.inflicted)
        audience.start()
        outcome.start_s = time.monotonic()
        try:
            await settle(outcome, installation, inflictor)
            await torment(outcome, installation, inflictor, tell)
        finally:
            await inflictor.close()
            await audience.close()
        outcome.end_s = time.monotonic()
        outcome.outages = installation.outages.merged()
        outcome.shortages = installation.outages.too_many(MAY_BE_DOWN)
        outcome.unwatched = installation.outages.too_many({"gateway": 1, "Redis": 0})
        outcome.after = installation.rss_bytes()
        outcome.orphans += await take_orphans(installation.orphans)
    outcome.orphans += await take_orphans(lambda: marked(installation.mark))
    return outcome


async def watch(plan: Plan, clients: Callable[[int], Client]) -> Outcome:
    """Sessions of an installation that is not ours: nothing is done to it."""
    audience = Audience(strangers(plan.seed, plan.num_sessions), clients)
    outcome = Outcome(plan, time.monotonic(), audience=audience)
    audience.start()
    try:
        await asyncio.sleep(plan.ends_at_s - time.monotonic())
    finally:
        await audience.close()
        outcome.end_s = time.monotonic()
    return outcome


def doors(installation: Installation) -> Callable[[int], Client]:
    def client(first: int) -> Client:
        targets = installation.targets(first)
        return Client(targets, api_key=installation.api_key, tls=installation.tls, retry_for_s=RETRY_S)

    return client


async def torment(outcome: Outcome, installation: Installation, inflictor: Inflictor, tell: Tell) -> None:
    """All faults; after each burst and at the end, everything comes up and everybody goes on."""
    plan = outcome.plan
    settled = 0
    for step in steps(plan.seed, plan.pace_s):
        await asyncio.sleep(step.wait_s)
        for fault in (*inflictor.due(), *step.faults):
            if len(outcome.inflicted) < plan.kills and inflictor.inflict(fault):
                tell(outcome)
        left = plan.kills - len(outcome.inflicted)
        is_done = left <= 0 or time.monotonic() > plan.ends_at_s
        if is_done or (len(outcome.inflicted) - settled >= BURST <= 2 * left):
            await settle(outcome, installation, inflictor)
            settled = len(outcome.inflicted)
        if is_done:
            return


async def settle(outcome: Outcome, installation: Installation, inflictor: Inflictor) -> None:
    """Until all is up again and everybody has got a segment since, or should have."""
    await inflictor.over()
    give_up_at = time.monotonic() + ALL_UP_S
    while installation.outages.down and time.monotonic() < give_up_at:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    if down := installation.outages.down:
        text = f"not up after {ALL_UP_S:g} s: {', '.join(down)}"
        outcome.standing.append((time.monotonic(), text))
    outcome.orphans += await take_orphans(installation.orphans)
    assert outcome.audience
    up_s = time.monotonic()
    while time.monotonic() < up_s + GO_ON_S:
        if not behind(outcome.audience, up_s):
            return
        await asyncio.sleep(LOOK_S)
    names = sorted(behind(outcome.audience, up_s))
    text = f"nothing for {GO_ON_S:g} s though everything is up: {', '.join(names)}"
    outcome.standing.append((time.monotonic(), text))


def behind(audience: Audience, since_s: float) -> list[str]:
    """Sessions whose controllers wait for their first segment since then."""
    found = []
    for ledger in audience.waiting():
        assert ledger.waiting_since_s is not None
        if not ledger.is_viewer and ledger.waiting_since_s < since_s:
            found.append(ledger.name)
    return found


async def take_orphans(find: Callable[[], list[psutil.Process]]) -> list[tuple[float, str]]:
    """Processes that are still there after a while, which are then killed; when, and what they ran."""
    suspects = find()
    if not suspects:
        return []
    await asyncio.sleep(ENDS_S)
    left = {process.pid for process in find()} & {process.pid for process in suspects}
    found = []
    for process in suspects:
        if process.pid in left:
            try:
                text = f"{process.pid} ({process.status()}): {' '.join(process.cmdline())}"
                found.append((time.monotonic(), text))
                process.kill()
            except psutil.NoSuchProcess:
                continue
    return found
