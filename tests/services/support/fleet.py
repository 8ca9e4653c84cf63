"""Deployments of stages, decoders and gateways, as processes; gateways find the others by EndpointSlices.
Each replacement is a new process at a new address, as pods are.

async with running_fleet(Shape()) as fleet:
    async for step in fleet.replace("stage", "surge"):
        ...
"""

import asyncio
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from tests.services.support.fake_api_server import (
    NAMESPACE,
    FakeApiServer,
    endpoint_object,
    pod_object,
    slice_object,
)
from tests.services.support.front import Front
from tests.services.support.system import ROOT, WAIT_S, Program, Redis, clean_environment

Kind = Literal["stage", "decoder", "gateway"]
Way = Literal["surge", "drained", "in place"]
KINDS: tuple[Kind, ...] = ("stage", "decoder", "gateway")
POLL_S = 0.1
SERVICE_LAG_S = 0.3
"""Until a gateway that leaves gets no new connections: what a Service takes to hear of it."""


@dataclass(frozen=True)
class Shape:
    """How many of each, and how they are set."""

    num_each: int = 2
    places: int = 10
    """Of each stage, and of each decoder."""
    drain_deadline_s: float = 30.0

    def environment(self, kind: Kind) -> dict[str, str]:
        own = {
            "stage": {
                "CASCADE_STAGE_DEVICE": "cpu",
                "CASCADE_STAGE_NUM_RANKS": "1",
                "CASCADE_STAGE_THREADS_PER_RANK": "1",
                "CASCADE_STAGE_MAX_SESSIONS": str(self.places),
            },
            "decoder": {
                "CASCADE_DECODER_DEVICE": "cpu",
                "CASCADE_DECODER_THREADS": "1",
                "CASCADE_DECODER_MAX_SESSIONS": str(self.places),
            },
            "gateway": {"CASCADE_DRAIN_NOTICE_S": "1"},
        }
        return {"CASCADE_DRAIN_DEADLINE_S": f"{self.drain_deadline_s:g}", **own[kind]}


@dataclass(frozen=True)
class Step:
    """One process replaced. Times on this process's clock."""

    kind: Kind
    way: Way
    number: int
    """Of its kind and way, from 1."""
    start_s: float
    end_s: float
    """The new one serves, and the old one has ended."""
    start_up_s: float
    """From the start of the new process until it serves."""
    leave_s: float
    """From SIGTERM until the old process has ended."""
    status: int
    """What it ended with."""

    def __str__(self) -> str:
        return f"{self.kind} {self.number}, {self.way}"


class Fleet:
    """What runs, and what did."""

    def __init__(
        self, folder: Path, shape: Shape, cluster: FakeApiServer, redis: Redis, front: Front
    ) -> None:
        """`front`: of the gateways, for clients."""
        self.shape = shape
        self.front = front
        self.running: dict[Kind, list[Program]] = {kind: [] for kind in KINDS}
        self.former: list[Program] = []
        self._folder = folder
        self._cluster = cluster
        self._numbers = count()
        self._ready_gateways: list[str] = []
        key = folder / "token.key"
        key.write_bytes(secrets.token_bytes(32))
        self._shared = {
            "CASCADE_GATEWAY_REDIS_URL": redis.url,
            "CASCADE_GATEWAY_TOKEN_KEY_FILE": str(key),
            "CASCADE_KUBERNETES_API_URL": cluster.url,
            "CASCADE_KUBERNETES_NAMESPACE": NAMESPACE,
            "CASCADE_KUBERNETES_STAGE_SERVICE": "stage",
            "CASCADE_KUBERNETES_DECODER_SERVICE": "decoder",
            "CASCADE_KUBERNETES_DELETION_COST": "true",
            "CASCADE_KUBERNETES_EVENTS": "true",
        }

    @property
    def programs(self) -> list[Program]:
        """All that were ever started."""
        return [*self.former, *(program for kind in KINDS for program in self.running[kind])]

    async def start(self) -> None:
        """All at once, until all serve."""
        await asyncio.gather(*(self.bring(kind) for kind in KINDS for _ in range(self.shape.num_each)))

    async def replace(self, kind: Kind, way: Way) -> AsyncIterator[Step]:
        """Each process of a kind, one after the other. `surge`: the new one serves before the old one is
        asked to leave. `drained`: and the old one was emptied by `cascade drain`. `in place`: the old one has
        ended before the new one is started."""
        for number, old in enumerate(list(self.running[kind]), 1):
            start_s = time.monotonic()
            if way == "in place":
                leave_s, status = await self.dismiss(kind, old)
                start_up_s = await self.bring(kind)
            else:
                start_up_s = await self.bring(kind)
                if way == "drained":
                    await drain(old)
                leave_s, status = await self.dismiss(kind, old)
            yield Step(kind, way, number, start_s, time.monotonic(), start_up_s, leave_s, status)

    async def bring(self, kind: Kind) -> float:
        """Start one more; seconds until it serves."""
        start_s = time.monotonic()
        environment = self.shape.environment(kind) | (self._shared if kind == "gateway" else {})
        program = Program(kind, next(self._numbers), self._folder, environment)
        program.start()
        self.running[kind].append(program)
        self._publish(program)
        await self._serving(program)
        self._publish(program, is_ready=True)
        if kind == "gateway":
            self._ready_gateways.append(program.address)
            self.front.lead_to(self._ready_gateways)
        return time.monotonic() - start_s

    async def dismiss(self, kind: Kind, program: Program) -> tuple[float, int]:
        """SIGTERM; seconds until it has ended, and its exit status."""
        start_s = time.monotonic()
        self.running[kind].remove(program)
        self.former.append(program)
        self._publish(program, is_terminating=True)
        program.send(signal.SIGTERM)
        ending = asyncio.create_task(asyncio.to_thread(program.wait_ended))
        if kind == "gateway":
            await asyncio.sleep(SERVICE_LAG_S)
            self._ready_gateways.remove(program.address)
            self.front.lead_to(self._ready_gateways)
        status = await ending
        leave_s = time.monotonic() - start_s
        for resource in ("endpointslices", "pods"):
            self._cluster.remove(resource, program.log.stem)
        return leave_s, status

    def _publish(self, program: Program, *, is_ready: bool = False, is_terminating: bool = False) -> None:
        """As the cluster does: listed from the start, ready or not."""
        name, port = program.log.stem, int(program.address.rpartition(":")[2])
        if ("pods", name) not in self._cluster.objects:
            self._cluster.put("pods", pod_object(name))
        entry = endpoint_object("127.0.0.1", name, ready=is_ready, terminating=is_terminating)
        self._cluster.put("endpointslices", slice_object(name, entry, service=program.kind, port=port))

    async def _serving(self, program: Program) -> None:
        """Raises AssertionError, with the logs, after WAIT_S."""
        deadline = time.monotonic() + WAIT_S
        while await asyncio.to_thread(program.health) != "SERVING":
            assert program.is_running, f"{program.log.stem} ended:\n{program.tail()}"
            assert time.monotonic() < deadline, f"{program.log.stem} does not serve:\n{self.tails()}"
            await asyncio.sleep(POLL_S)

    def tails(self) -> str:
        return "\n".join(program.tail() for program in self.programs)

    def close(self) -> None:
        for program in self.programs:
            program.close()


async def drain(program: Program) -> None:
    """As an operator does. Raises AssertionError unless the command says that it is safe to delete."""
    command = ("drain", program.address, "--wait", "--json", "--timeout", f"{WAIT_S:g}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cascade_client", *command),
        env=clean_environment(),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 2 * WAIT_S)
    assert process.returncode == 0
    assert json.loads(said.splitlines()[-1])["safe_to_delete"] is True
    assert program.status().num_sessions == 0


@asynccontextmanager
async def running_fleet(shape: Shape) -> AsyncIterator[Fleet]:
    """All serve."""
    folder = Path(tempfile.mkdtemp(prefix="cascade-fleet-"))
    redis, front = Redis(), Front()
    try:
        async with FakeApiServer() as cluster:
            await front.start()
            fleet = Fleet(folder, shape, cluster, redis, front)
            try:
                await fleet.start()
                yield fleet
            finally:
                await front.close()
                fleet.close()
    finally:
        redis.close()
        shutil.rmtree(folder, ignore_errors=True)
