"""Servers as child processes of a benchmark, what they use, and an end for each of them."""

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cascade_client.processes.child import Child

ROOT = Path(__file__).parents[1]
START_S = 120.0
"""To listen, the model's load included."""
END_S = 10.0
LOOK_S = 0.05
MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """Of one process and its children."""

    cpu_s: float
    rss_bytes: int


@dataclass
class Measured:
    """A running process; its log is a file."""

    name: str
    child: Child
    log: Path
    port: int = 0
    _cpu_s: dict[int, float] = field(default_factory=dict)
    """By process id, as seen last."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace")

    def usage(self) -> Usage:
        """Since its start; children that have ended count as long as they were seen here before."""
        own = psutil.Process(self.child.pid)
        rss = 0
        for process in (own, *own.children(recursive=True)):
            try:
                times = process.cpu_times()
                self._cpu_s[process.pid] = times.user + times.system
                rss += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return Usage(sum(self._cpu_s.values()), rss)


@asynccontextmanager
async def service(
    module: str, environment: Mapping[str, str], *arguments: str, checkout: Path = ROOT
) -> AsyncIterator[Measured]:
    """`python -m MODULE ARGUMENTS` with these `CASCADE_` variables, once it listens on a free port.

    `checkout`: whose code runs, with the packages that are installed here.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CASCADE_")}
    ours = {"OMP_NUM_THREADS": "1", "CASCADE_GRPC_PORT": "0", "PYTHONPATH": str(checkout)}
    command, name = (sys.executable, "-m", module, *arguments), module.rpartition(".")[2]
    async with child(name, command, clean | ours | dict(environment), cwd=checkout) as started:
        started.port = int((await logged(started, '"event": "listening"'))["port"])
        yield started


@asynccontextmanager
async def redis() -> AsyncIterator[tuple[str, Measured]]:
    """A redis-server of its own on loopback, without persistence; its URL."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise FileNotFoundError("redis-server")
    with socket.socket() as line:  # Redis takes no port 0
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    async with child("redis", (binary, *options), os.environ) as started:
        await until(started, lambda: "eady to accept" in started.text(), "readiness")
        started.port = port
        yield f"redis://{started.address}", started


@asynccontextmanager
async def child(
    name: str, command: tuple[str, ...], environment: Mapping[str, str], cwd: Path = ROOT, **options: Any
) -> AsyncIterator[Measured]:
    """A process for as long as the block lasts; it dies with this one."""
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
        log = Path(folder) / f"{name}.log"
        process = await Child.start(command, log=log, environment=environment, folder=cwd, **options)
        try:
            yield Measured(name, process, log)
        finally:
            await process.end(process.terminate, process.terminate, within_s=END_S / 2)  # the second hurries


async def logged(started: Measured, words: str) -> dict[str, Any]:
    """The first line of the log with these words, as JSON."""

    def find() -> str:
        lines = started.text().splitlines()
        return next((line for line in lines if words in line), "")

    await until(started, find, words)
    found: dict[str, Any] = json.loads(find())
    return found


async def until(started: Measured, condition: Any, what: str) -> None:
    """Raises RuntimeError with the log's end where it does not come true."""
    deadline = time.monotonic() + START_S
    while not condition():
        if started.child.status is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{started.name}: no {what}\n{started.child.log_tail(3000)}")
        await asyncio.sleep(LOOK_S)
