"""The service's end of a process that opens one file (`start_worker.py`)."""

import asyncio
import signal
import sys
from types import TracebackType
from typing import Self

import structlog

from cascade_client.processes.child import Child
from cascade_core.errors import UnusableFile
from cascade_core.ranks.source import finding
from services.decoder.start_messages import FAULT, HEADER, NUMBER, PICTURE, Task, pack_task

PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
"""Variables that a Python needs to start; the others, with what they may hold, are not for this process."""
ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Threads take address space, and this process may start none."""
MAX_FAULT_BYTES = 1024
MAX_NUMBER_BYTES = 8
LIMIT_BYTES = 2**20
"""Bytes that wait on our side of its output."""
SLOW = (signal.SIGXCPU, signal.SIGKILL)
"""How the kernel ends a process that has used up its time."""

log = structlog.get_logger(__name__)


class StartProcess:
    """`async with`: a process for one file, and gone at the end."""

    module = "services.decoder.start_worker"
    """What it runs."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._child: Child
        self._feeding: asyncio.Task[None]

    @property
    def pid(self) -> int:
        return self._child.pid

    async def __aenter__(self) -> Self:
        """Raises OSError where no process can be started."""
        ours = finding(self.module)
        environment = {name: ours[name] for name in PASSED_ON if name in ours} | ALONE
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-P", "-m", self.module)
        self._child = await Child.start(
            command, environment=environment, folder=None, stdin=pipe, stdout=pipe, limit=LIMIT_BYTES
        )
        self._feeding = asyncio.create_task(self._feed(), name="start-file")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._feeding.cancel()
        await self._child.end()

    async def num_pictures(self) -> int:
        """Of the file; comes first. Raises UnusableFile."""
        return int(await self._take(NUMBER, MAX_NUMBER_BYTES))

    async def picture(self) -> bytes:
        """The next one, RGB [height, width, 3]. Raises UnusableFile."""
        size = self._task.picture_bytes
        picture = await self._take(PICTURE, size)
        if len(picture) != size:
            raise self._broken(f"a picture of {len(picture)} bytes came where {size} belong")
        return picture

    async def _feed(self) -> None:
        """Where the process ends before it has read all, its end tells more."""
        try:
            for part in pack_task(self._task):
                self._child.stdin.write(part)
                await self._child.stdin.drain()
        except ConnectionError:
            pass

    async def _take(self, wanted: bytes, max_bytes: int) -> bytes:
        stdout = self._child.stdout
        try:
            kind, size = HEADER.unpack(await stdout.readexactly(HEADER.size))
            most = MAX_FAULT_BYTES if kind == FAULT else max_bytes
            if kind not in (wanted, FAULT) or size > most:
                raise self._broken(f"{kind!r} with {size} bytes came where {wanted!r} belongs")
            data = await stdout.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._ended() from None
        if kind == FAULT:
            raise UnusableFile(data.decode(errors="replace"))
        return data

    async def _ended(self) -> UnusableFile:
        """It is gone in the middle of the file."""
        status = await self._child.wait()
        if -status in SLOW:
            return UnusableFile(
                f"takes more than {self._task.bounds.max_cpu_s:g} s to open; send a shorter or smaller one"
            )
        return self._broken(f"exit status {status}")

    def _broken(self, what: str) -> UnusableFile:
        log.warning("the process that opened a file broke", reason=what, pid=self._child.pid)
        return UnusableFile("cannot be opened: it breaks the program that reads it, or takes too much memory")
