"""A ReplicaSet, its nodes and its kubelets: makes pods, picks those to delete, ends them.

Sources: kubernetes.io "ReplicaSet" (deletion order; pod deletion cost), "Pod lifecycle" (SIGTERM, grace
period), feature gate LogarithmicScaleDown (on by default). A pod that terminates is no replica any more.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator

from benchmarks.day.pods import Hardware, Node, Phase, Pod, between
from benchmarks.day.virtual_time import now
from services.common.wakeup import Wakeup
from services.gateway.peers.endpoints import Endpoint
from services.gateway.peers.endpoints import Pod as PodName

ENDPOINTS_S = 1.0
"""From a change of pods to the EndpointSlice watch of a client."""
NANOS = 1e9


class ReplicaSet:
    """Pods of the stage's Deployment (one template for the whole day)."""

    def __init__(self, hardware: Hardware, chance: random.Random) -> None:
        self.replicas = 0
        """Of the spec."""
        self.pods: list[Pod] = []
        """All that ever were; see `active` and `alive`."""
        self.nodes: list[Node] = []
        """All that ever were."""
        self._hardware = hardware
        self._chance = chance
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = Wakeup()
        self._num_moves = 0
        self._alive: list[Pod] = []

    @property
    def alive(self) -> list[Pod]:
        """Not exited."""
        return self._alive

    @property
    def active(self) -> list[Pod]:
        """Those that the workload counts: neither exited nor told to."""
        return [pod for pod in self._alive if pod.deleted_s is None]

    def scale(self, replicas: int) -> None:
        """Set the spec; pods are made and told to end at once."""
        self.replicas = replicas
        active = self.active
        for _ in range(replicas - len(active)):
            self._start(self._create())
        excess = max(0, len(active) - replicas)
        for pod in sorted(active, key=lambda pod: deletion_rank(pod, now()))[:excess]:
            self._delete(pod)

    async def watch(self) -> AsyncGenerator[frozenset[Endpoint], None]:
        """Endpoints of the headless Service: running pods, ready or not, terminating or not."""
        while True:
            moved = self._num_moves
            yield frozenset(endpoint(pod) for pod in self._alive if pod.is_listed)
            while self._num_moves == moved:
                await self._moved.wait()
            await asyncio.sleep(ENDPOINTS_S)

    def find(self, address: str) -> Pod | None:
        """The pod that listens there."""
        return next((pod for pod in self._alive if pod.address == address and pod.is_listed), None)

    def retire_nodes(self) -> None:
        """Those that have been without a pod for too long."""
        for node in self.nodes:
            if node.gone_s is None and node.idle_since_s is not None:
                due = max(node.idle_since_s, node.up_s) + self._hardware.linger_s
                node.gone_s = due if due <= now() else None

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _create(self) -> Pod:
        number = len(self.pods)
        address = f"10.{number // 65025}.{number // 255 % 255}.{number % 255}:50061"
        pod = Pod(f"stage-{number:04}", address, self._hardware, now())
        self.pods.append(pod)
        self._alive.append(pod)
        return pod

    def _start(self, pod: Pod) -> None:
        task = asyncio.create_task(self._live(pod), name=pod.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, pod: Pod) -> None:
        """The pod's whole life."""
        deleted = asyncio.ensure_future(pod.drain.begun.wait())
        node = self._take_node()
        starting = asyncio.ensure_future(self._come_up(pod, node))
        try:
            await asyncio.wait({deleted, starting}, return_when=asyncio.FIRST_COMPLETED)
            starting.cancel()
            await deleted
            while pod.sessions and pod.drain.time_left_s > 0:
                changed = asyncio.ensure_future(pod.changed())
                await asyncio.wait({changed}, timeout=pod.drain.time_left_s)
                changed.cancel()
            await asyncio.sleep(0)
        finally:
            starting.cancel()
            deleted.cancel()
        pod.exited_s = node.idle_since_s = now()
        pod.drain.close()
        self._alive.remove(pod)
        pod.change()
        self._move()

    def _move(self) -> None:
        self._num_moves += 1
        self._moved.fire()

    def _take_node(self) -> Node:
        """One that is there, warm ones first; else another is ordered."""
        self.retire_nodes()
        idle = [node for node in self.nodes if node.idle_since_s is not None and node.gone_s is None]
        node = max(idle, key=lambda node: (node.is_warm, -node.up_s), default=None)
        if node is None:
            node = Node(now(), now() + between(self._hardware.node_s, self._chance))
            self.nodes.append(node)
        node.idle_since_s = None
        return node

    async def _come_up(self, pod: Pod, node: Node) -> None:
        hardware = self._hardware
        await asyncio.sleep(max(0.0, node.up_s - now()))
        pod.phase, pod.bound_s = Phase.PENDING, now()
        if not node.is_warm:
            await asyncio.sleep(between(hardware.image_s, self._chance))
        pod.phase = Phase.RUNNING
        self._move()
        await asyncio.sleep(between(hardware.load_s, self._chance))
        node.is_warm = True
        pod.become_ready()

    def _delete(self, pod: Pod) -> None:
        pod.deleted_s, pod.was_busy = now(), bool(pod.sessions)
        pod.drain.begin(self._hardware.drain_deadline_s, "SIGTERM")
        self._move()


def endpoint(pod: Pod) -> Endpoint:
    """As an EndpointSlice lists it."""
    return Endpoint(pod.address, PodName(pod.name, pod.name), is_terminating=pod.deleted_s is not None)


def deletion_rank(pod: Pod, at: float) -> tuple[float, ...]:
    """Ascending: who is deleted first. Unscheduled, pending, not ready, cheap, ready for a shorter time (by
    powers of two, then by UID), younger. Each pod has its node for itself, so the spread says nothing."""
    ready_s = pod.ready_s if pod.is_ready else None
    return (
        pod.phase,
        ready_s is not None,
        pod.deletion_cost,
        -1 if ready_s is None else age_rank(ready_s, at),
        -1 if ready_s is None else uid(pod),
        age_rank(pod.created_s, at),
        uid(pod),
    )


def age_rank(since: float, at: float) -> int:
    """Of two ages with the same rank neither is older."""
    age = (at - since) * NANOS
    return int(math.log2(age)) if age >= 1 else -1


def uid(pod: Pod) -> float:
    """As random as a real one, and the same in each run."""
    return random.Random(pod.name).random()
