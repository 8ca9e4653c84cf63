"""One child process in a group of its own, its output in a file."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import grpc

from cascade_client.channel import open_channel
from cascade_client.health import is_serving
from cascade_client.processes import launch
from cascade_client.processes.plan import Process, base_environment

POLL_S = 0.2
CHECK_DEADLINE_S = 2.0
KILL_DEADLINE_S = 5.0
TAIL_BYTES = 4096


class Child:
    """Started, watched and stopped by the Supervisor."""

    def __init__(self, process: Process, log_dir: Path) -> None:
        self.process = process
        self.log_path = log_dir / f"{process.name}.log"
        self._running: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._running
        return self._running.pid

    async def start(self, *, is_first: bool) -> None:
        """Its log begins anew with the first start and goes on after later ones."""
        # -S -E: the launcher needs nothing but the standard library, and is gone at once.
        launcher = (sys.executable, "-S", "-E", launch.__file__, str(os.getpid()))
        with self.log_path.open("wb" if is_first else "ab") as log:
            self._running = await asyncio.create_subprocess_exec(
                *launcher, *self.process.command,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=base_environment() | dict(self.process.environment),
            )  # fmt: skip

    async def wait(self) -> int:
        """Its exit status, negative for a signal; what it left in its group is killed."""
        assert self._running
        status = await self._running.wait()
        self.signal(signal.SIGKILL)
        return status

    def signal(self, number: int) -> None:
        """To its whole group."""
        if self._running:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._running.pid, number)

    def ask_to_stop(self) -> None:
        """To the process itself: it tells those that it started."""
        if self._running and self._running.returncode is None:
            with suppress(ProcessLookupError):
                self._running.terminate()

    async def stopped(self, deadline_s: float) -> None:
        """Wait for its end, then kill it."""
        if self._running is None:
            return
        try:
            await asyncio.wait_for(self._running.wait(), deadline_s)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._running.wait(), KILL_DEADLINE_S)
        self.signal(signal.SIGKILL)

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
        with suppress(OSError):
            lines = self.log_path.read_bytes()[-TAIL_BYTES:].decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""


async def serves(channel: grpc.aio.Channel) -> bool:
    """Not while nobody answers."""
    try:
        return await is_serving(channel, CHECK_DEADLINE_S)
    except grpc.aio.AioRpcError:
        return False
