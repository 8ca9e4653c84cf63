"""One day, from its setting to what became of it."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from benchmarks.day.controllers import Controller
from benchmarks.day.demand import HOUR_S, Demand, visits
from benchmarks.day.gateway import Gateway, Story
from benchmarks.day.gateway_scaler import Costs, GatewayScaler
from benchmarks.day.pods import Hardware, Pod
from benchmarks.day.replica_set import ReplicaSet
from benchmarks.day.virtual_time import now, run
from services.common.errors import NotReady

SAMPLE_S = 15.0


@dataclass(frozen=True)
class Setting:
    """What is simulated."""

    name: str
    controller: Controller
    demand: Demand = field(default_factory=Demand)
    hardware: Hardware = field(default_factory=Hardware)
    seed: int = 1
    scaler: dict[str, Any] = field(default_factory=dict)
    """Fields of ScalerSettings."""
    has_deletion_cost: bool = True
    first_replicas: int = 1
    """Ordered as the day begins."""
    quiet_s: float = 0.0
    """How long it goes on after the last session."""


@dataclass(frozen=True)
class Sample:
    """The cluster at one moment."""

    at_s: float
    desired: float | None
    """As the gateway tells it; None: it does not know yet."""
    replicas: int
    num_ready: int
    num_alive: int
    num_busy: int
    """Pods with sessions, those that terminate not counted."""
    num_playing: int
    num_queued: int
    num_slow: int
    """Sessions on pods that have more than they keep up with."""


@dataclass
class Day:
    """What became of it."""

    setting: Setting
    stories: list[Story]
    samples: list[Sample]
    replica_set: ReplicaSet


def simulate(setting: Setting) -> Day:
    """The whole day, and until its last session has ended. Same setting, same day."""
    random.seed(setting.seed)  # the gateway's own jitter
    return run(_simulate(setting))


async def _simulate(setting: Setting) -> Day:
    replica_set = ReplicaSet(setting.hardware, random.Random(setting.seed))
    gateway = Gateway(replica_set)
    stories = [Story(visit) for visit in visits(setting.demand, setting.seed)]
    day = Day(setting, stories, [], replica_set)
    await gateway.start()
    replica_set.scale(setting.first_replicas)
    scaler = GatewayScaler(gateway, **setting.scaler)
    await scaler.start()
    costs = Costs(gateway, replica_set) if setting.has_deletion_cost else None
    helpers = [
        asyncio.create_task(setting.controller.run(replica_set, scaler)),
        asyncio.create_task(watch(day, gateway, scaler)),
    ]
    try:
        await arrive(gateway, stories)
        await asyncio.sleep(max(setting.quiet_s, setting.demand.hours * HOUR_S - now()))
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        if costs:
            await costs.close()
        await scaler.close()
        await gateway.close()
        await replica_set.close()
    return day


async def arrive(gateway: Gateway, stories: list[Story]) -> None:
    """Everybody, in time; returns when all have left."""
    async with asyncio.TaskGroup() as playing:
        for story in stories:
            await asyncio.sleep(story.visit.arrival_s - now())
            playing.create_task(gateway.play(story))


async def ask(scaler: GatewayScaler) -> float | None:
    """As KEDA would, now."""
    try:
        return await scaler.get_metric()
    except NotReady:
        return None


def is_slow(pod: Pod) -> bool:
    """Whether its sessions are made more slowly than they play."""
    smooth = pod.hardware.smooth_sessions
    return smooth is not None and len(pod.sessions) > smooth


async def watch(day: Day, gateway: Gateway, scaler: GatewayScaler) -> None:
    """Take samples."""
    while True:
        day.replica_set.retire_nodes()
        desired = await ask(scaler)
        active = day.replica_set.active
        day.samples.append(
            Sample(
                at_s=now(),
                desired=desired,
                replicas=day.replica_set.replicas,
                num_ready=sum(pod.is_ready for pod in active),
                num_alive=len(day.replica_set.alive),
                num_busy=sum(bool(pod.sessions) for pod in active),
                num_playing=sum(len(pod.sessions) for pod in day.replica_set.alive),
                num_queued=gateway.admission.queue_length + gateway.admission.num_urgent,
                num_slow=sum(len(pod.sessions) for pod in day.replica_set.alive if is_slow(pod)),
            )
        )
        await asyncio.sleep(SAMPLE_S)
