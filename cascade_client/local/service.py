"""One service of `cascade up`: its process, its log, whether it serves."""

import asyncio
from contextlib import suppress
from pathlib import Path

import grpc

from cascade_client.channel import open_channel
from cascade_client.health import is_serving
from cascade_client.local.plan import Process, base_environment
from cascade_client.processes.child import Child

POLL_S = 0.2
CHECK_DEADLINE_S = 2.0
TAIL_BYTES = 4096


class LocalService:
    """Started, watched and stopped by the Supervisor."""

    def __init__(self, process: Process, log_dir: Path) -> None:
        self.process = process
        self.log_path = log_dir / f"{process.name}.log"
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """Of the newest start."""
        assert self._child
        return self._child

    async def start(self, *, is_first: bool) -> None:
        """Its log begins anew with the first start and goes on after later ones."""
        if is_first:
            self.log_path.write_bytes(b"")
        environment = base_environment() | dict(self.process.environment)
        self._child = await Child.start(self.process.command, log=self.log_path, environment=environment)

    async def stop(self, within_s: float) -> None:
        """Ask, wait, kill."""
        if self._child:
            await self._child.end(self._child.terminate, within_s=within_s)

    def kill(self) -> None:
        """At once; `stop` still has to follow."""
        if self._child:
            self._child.kill()

    async def serving(self) -> None:
        """Wait until it serves; bounded by the caller."""
        if self.process.role == "redis":
            await self._accepting()
            return
        async with open_channel(self.process.address, None) as channel:
            while not await serves(channel):  # noqa: ASYNC110 - another process
                await asyncio.sleep(POLL_S)

    async def _accepting(self) -> None:
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(*self.process.address.split(":"))
                writer.close()
                return
            await asyncio.sleep(POLL_S)

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.child.log_tail(TAIL_BYTES).split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


async def serves(channel: grpc.aio.Channel) -> bool:
    """Not while nobody answers."""
    try:
        return await is_serving(channel, CHECK_DEADLINE_S)
    except grpc.aio.AioRpcError:
        return False
