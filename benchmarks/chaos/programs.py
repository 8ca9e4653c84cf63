"""One process of the installation: it is started again when it dies, as a container of Kubernetes is."""

import asyncio
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import grpc
import psutil

from benchmarks.chaos.outages import Outages
from cascade_client.channel import Tls, open_channel
from cascade_client.health import is_serving
from cascade_client.processes.child import Child

ROOT = Path(__file__).parents[2]
RESTART_S = 0.5
"""From the end of a process to its next start."""
LOOK_S = 0.1
NOTICED_S = 0.5
"""Health has noticed by then what happened to a process or one that it started."""
CHECK_S = 1.0
START_S = 120.0
END_S = 20.0


class Program:
    """A stage, a decoder or a gateway, on a port that it keeps."""

    def __init__(
        self,
        kind: str,
        number: int,
        engine: str,
        port: int,
        environment: Mapping[str, str],
        folder: Path,
        tls: Tls | None,
        outages: Outages,
    ) -> None:
        self.kind = kind
        self.name = f"{kind}-{number}"
        self.address = f"127.0.0.1:{port}"
        self.clock_s = 0.0
        self.log = folder / f"{self.name}.log"
        self._engine = engine
        self._environment = {**environment, "CASCADE_GRPC_PORT": str(port)}
        self._tls = tls
        self._outages = outages
        self._child: Child | None = None
        self._running: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._frozen: list[psutil.Process] = []

    def start(self) -> None:
        """Until `close`."""
        self._outages.begin(self.name)
        self._running = asyncio.create_task(self._run(), name=self.name)

    async def close(self) -> None:
        """Ask, wait, kill."""
        self.thaw()
        for task in (self._running, self._checking):
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._child:
            await self._child.end(self._child.terminate, within_s=END_S)

    @property
    def is_there(self) -> bool:
        """Runs, and is not frozen."""
        return self._child is not None and self._child.status is None and not self._frozen

    @property
    def pid(self) -> int:
        assert self._child
        return self._child.pid

    def processes(self) -> list[psutil.Process]:
        """Itself first, then all that it started."""
        try:
            own = psutil.Process(self.pid)
            return [own, *own.children(recursive=True)]
        except (psutil.NoSuchProcess, AssertionError):
            return []

    def ranks(self) -> list[psutil.Process]:
        """Of a stage: what its fork server started."""
        return [process for process in self.processes()[1:] if parent_of(process) != self.pid]

    def fork_servers(self) -> list[psutil.Process]:
        return [process for process in self.processes()[1:] if parent_of(process) == self.pid]

    workers = fork_servers
    """Of a decoder."""

    def send(self, number: signal.Signals) -> None:
        """To the process itself; it counts as down until it serves again."""
        self.note_outage()
        if self._child:
            self._child.signal(number)

    def note_outage(self) -> None:
        """Something happened to it: it is down until it serves."""
        self._outages.begin(self.name)
        if self._checking:
            self._checking.cancel()
        self._checking = asyncio.create_task(self._await_serving(), name=f"{self.name} serves")

    def freeze(self) -> None:
        """All its processes."""
        self._outages.begin(self.name)
        self._frozen = self.processes()
        for process in self._frozen:
            send(process, signal.SIGSTOP)

    def thaw(self) -> None:
        frozen, self._frozen = self._frozen, []
        for process in frozen:
            send(process, signal.SIGCONT)

    async def serving(self) -> None:
        """Until it serves. Raises TimeoutError."""
        async with asyncio.timeout(START_S):
            await self._serving()

    def rss_bytes(self) -> int:
        return sum(rss(process) for process in self.processes())

    async def _run(self) -> None:
        module = "benchmarks.chaos.launch"
        while True:
            command = (sys.executable, "-m", module, self.kind, self._engine, f"{self.clock_s:g}")
            self._child = await Child.start(command, log=self.log, environment=self._environment, folder=ROOT)
            self.note_outage()
            await self._child.wait()
            self._outages.begin(self.name)
            await asyncio.sleep(RESTART_S)

    async def _await_serving(self) -> None:
        await asyncio.sleep(NOTICED_S)
        await self._serving()
        self._outages.end(self.name)

    async def _serving(self) -> None:
        async with open_channel(self.address, self._tls) as channel:
            while self._frozen or not await serves(channel):  # noqa: ASYNC110 - another process
                await asyncio.sleep(LOOK_S)


async def serves(channel: grpc.aio.Channel) -> bool:
    """Not while nobody answers."""
    try:
        return await is_serving(channel, CHECK_S)
    except grpc.aio.AioRpcError:
        return False


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Nothing happens to one that has ended."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def parent_of(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return None
