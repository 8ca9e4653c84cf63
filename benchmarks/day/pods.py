"""A stage pod, from its creation to its exit: node, image, model, sessions, drain. Computes nothing."""

import asyncio
import enum
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from benchmarks.day.virtual_time import now
from cascade.v1 import common_pb2, stage_pb2
from services.common.drain import Drain

MODEL = stage_pb2.ModelInfo(
    model="day", revision="r1", width=832, height=480, fps=16, block_frames=3, max_pixels=832 * 480
)
OPEN_S = 0.3
"""From Open to Opened: text embedding, caches made again by one joint pass."""


@dataclass(frozen=True)
class Hardware:
    """What a pod is and how long it takes to come; times in seconds, least and most."""

    max_sessions: int = 4
    """Of one pod: the pictures that it makes a second over those that playback takes."""
    smooth_sessions: int | None = None
    """How many it makes as fast as they play; more of them are made more slowly. None: all that it takes."""
    num_gpus: int = 5
    node_s: tuple[float, float] = (120.0, 180.0)
    """A node is ordered, boots, joins, and its device plugin reports."""
    image_s: tuple[float, float] = (45.0, 75.0)
    """On a node that has not got the image."""
    load_s: tuple[float, float] = (80.0, 100.0)
    """Weights from the node's disk or a volume to the GPUs, first tick."""
    drain_deadline_s: float = 300.0
    """`stage.drain.deadlineSeconds` of the chart."""
    linger_s: float = 600.0
    """A node without a pod goes after that (cluster autoscaler, scale-down-unneeded-time, 10 min)."""


class Phase(enum.IntEnum):
    """Rising: what a ReplicaSet deletes later."""

    UNSCHEDULED = 0
    PENDING = 1
    RUNNING = 2


class Refused(Exception):
    """The stage does not take the session."""


@dataclass
class Node:
    """A machine with room for one stage pod."""

    ordered_s: float
    up_s: float
    """When it has joined; whoever ordered it."""
    is_warm: bool = False
    """Has the image, and the weights in its page cache or on its disk."""
    idle_since_s: float | None = None
    gone_s: float | None = None


@dataclass(eq=False)
class Pod:
    """One replica, and the process in it."""

    name: str
    address: str
    hardware: Hardware
    created_s: float
    phase: Phase = Phase.UNSCHEDULED
    bound_s: float | None = None
    """When it got its GPUs."""
    ready_s: float | None = None
    deleted_s: float | None = None
    """SIGTERM."""
    exited_s: float | None = None
    deletion_cost: int = 0
    sessions: set[str] = field(default_factory=set)
    state: "common_pb2.ServingState.ValueType" = common_pb2.SERVING_STATE_STARTING
    was_busy: bool = False
    """When it was chosen for deletion."""

    def __post_init__(self) -> None:
        self.drain = Drain(on_begin=self._begin_drain)
        self._changed = asyncio.Event()

    @property
    def is_listed(self) -> bool:
        """Has an address in its EndpointSlice, which publishes addresses that are not ready too."""
        return self.phase == Phase.RUNNING and self.exited_s is None

    @property
    def is_ready(self) -> bool:
        """By its readiness probe."""
        return self.state == common_pb2.SERVING_STATE_READY

    def change(self) -> None:
        """Report."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Until its next report."""
        await self._changed.wait()

    def become_ready(self) -> None:
        self.state, self.ready_s = common_pb2.SERVING_STATE_READY, now()
        self.change()

    def _begin_drain(self) -> None:
        self.state = common_pb2.SERVING_STATE_DRAINING
        self.change()

    def status(self) -> stage_pb2.StageStatus:
        """As the real stage reports it."""
        status = stage_pb2.StageStatus(
            server=common_pb2.ServerInfo(instance_id=self.name),
            state=self.state,
            num_sessions=len(self.sessions),
            drain=self.drain.status(len(self.sessions)),
        )
        if self.ready_s is not None:
            status.model.CopyFrom(MODEL)
            status.max_sessions = self.hardware.max_sessions
        return status

    async def reports(self, interval_s: float) -> AsyncIterator[stage_pb2.StageStatus]:
        """WatchStatus: now, at each change, and as a heartbeat; ends with the process."""
        while self.is_listed:
            changed = asyncio.ensure_future(self.changed())
            yield self.status()
            await asyncio.wait({changed}, timeout=interval_s)
            changed.cancel()

    async def generate(self, session: str, opened: asyncio.Event, length_s: float) -> None:
        """Make so many seconds of video; returns when they are made. Raises Refused where
        the pod is full or not ready, Draining at the end of its drain."""
        if not self.is_ready or len(self.sessions) >= self.hardware.max_sessions:
            raise Refused(f"{self.address} has no place")
        self.sessions.add(session)
        self.change()
        try:
            async with asyncio.timeout(OPEN_S + length_s) as limit:
                await asyncio.sleep(OPEN_S)
                opened.set()
                await self.drain.watch()
        except TimeoutError:
            assert limit.expired()
        finally:
            self.sessions.discard(session)
            self.change()


def between(bounds: tuple[float, float], chance: random.Random) -> float:
    """Seconds."""
    return chance.uniform(*bounds)
