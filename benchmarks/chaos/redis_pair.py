"""Redis with a replica, behind an address that follows the primary."""

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.chaos.outages import Outages
from benchmarks.chaos.programs import rss
from cascade_client.processes.child import Child
from tests.services.support.front import Front
from tests.services.support.ports import free_port

NAME = "Redis"
BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
DOWN_S = 1.0
"""Between the end of a primary and the next."""
ANSWER_S = 2.0
LOOK_S = 0.05
START_S = 30.0
END_S = 10.0


class Server:
    """One of the two; keeps what it has on disk, as far as the kernel was given it."""

    def __init__(self, name: str, folder: Path, password: str) -> None:
        self.port = free_port()
        self.folder = folder / name
        self.address = f"127.0.0.1:{self.port}"
        self._log = folder / f"{name}.log"
        self._password = password
        self._child: Child | None = None

    async def start(self, primary: "Server | None" = None) -> None:
        """Until it answers. Raises TimeoutError."""
        assert BINARY
        self.folder.mkdir(exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes",
            "repl-diskless-sync-delay": "0",
        }
        if self._password:
            options |= {"requirepass": self._password, "masterauth": self._password}
        if primary:
            options["replicaof"] = f"127.0.0.1 {primary.port}"
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._child = await Child.start((BINARY, *arguments), log=self._log, environment=os.environ)
        async with asyncio.timeout(START_S):
            while not (await self.command("PING")).startswith("+PONG"):  # noqa: ASYNC110 - another process
                await asyncio.sleep(LOOK_S)

    async def command(self, *words: str) -> str:
        """Its raw answer; empty where there is none."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    login = f"AUTH {self._password}\r\n" if self._password else ""
                    writer.write(f"{login}{' '.join(words)}\r\n".encode())
                    if login:
                        await reader.readline()
                    return (await reader.read(65536)).decode(errors="replace")
                finally:
                    writer.close()
        return ""

    async def kill(self) -> None:
        if self._child:
            self._child.kill()
            await self._child.wait()

    async def end(self) -> None:
        """Ask it to end, and wait."""
        if self._child:
            await self._child.end(self._child.terminate, within_s=END_S)

    def signal(self, number: signal.Signals) -> None:
        if self._child:
            self._child.signal(number)

    def forget(self) -> None:
        """While it is down: all that it had."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def rss_bytes(self) -> int:
        return rss(psutil.Process(self._child.pid)) if self._child and self._child.status is None else 0


class RedisPair:
    """One thing happens to it at a time."""

    def __init__(self, folder: Path, password: str, outages: Outages) -> None:
        self._servers = [Server(f"redis-{number}", folder, password) for number in range(2)]
        self._outages = outages
        self._busy = asyncio.Lock()
        self.front = Front()
        self._password = password

    @property
    def url(self) -> str:
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}{self.front.address}/0"

    @property
    def is_there(self) -> bool:
        return not self._busy.locked()

    @property
    def primary(self) -> Server:
        return self._servers[0]

    async def start(self) -> None:
        await self.primary.start()
        await self._servers[1].start(self.primary)
        self.front.lead_to([self.primary.address])
        await self.front.start()

    async def close(self) -> None:
        await self.front.close()
        for server in self._servers:
            server.signal(signal.SIGCONT)
            await server.kill()

    async def restart(self, *, is_asked: bool, is_empty: bool) -> None:
        """SIGTERM or SIGKILL, and up again, with or without what it had."""
        async with self._busy:
            self._outages.begin(NAME)
            await (self.primary.end() if is_asked else self.primary.kill())
            if is_empty:
                self.primary.forget()
            await asyncio.sleep(DOWN_S)
            await self.primary.start()
            self._outages.end(NAME)

    async def pause(self, seconds: float) -> None:
        """It keeps its connections and answers nothing."""
        async with self._busy:
            self._outages.begin(NAME)
            self.primary.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.primary.signal(signal.SIGCONT)
                self._outages.end(NAME)

    async def fail_over(self) -> None:
        """The replica becomes the primary, with all that had come to it; the other is its replica then."""
        async with self._busy:
            self._outages.begin(NAME)
            await self.primary.kill()
            self.primary.forget()
            self._servers.reverse()
            await asyncio.sleep(DOWN_S)
            await self.primary.command("REPLICAOF", "NO", "ONE")
            self.front.lead_to([self.primary.address])
            self.front.cut()
            self._outages.end(NAME)
            await self._servers[1].start(self.primary)

    def rss_bytes(self) -> int:
        return sum(server.rss_bytes for server in self._servers)
