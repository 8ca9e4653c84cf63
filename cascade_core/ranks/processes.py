"""The engine's side of its rank processes: it has them forked by `fork_server.py`, and hears of their end."""

import asyncio
import os
import signal
import socket
import struct
import sys
from collections import deque
from contextlib import suppress

from cascade_core.ranks.source import finding

NEWS = struct.Struct("!iii")
"""What the fork server tells: one of the next three, a process id, and an exit status or error number."""
BORN, DIED, FAILED = range(3)
STDERR = 2
"""Where prints of a rank go; sys.stderr may be replaced by something that is no file."""
END_S = 3.0
"""Time that a fork server has to end once its engine and ranks are gone."""


class RankProcess:
    """One rank's process."""

    def __init__(self, process_id: int) -> None:
        self.pid = process_id
        self.returncode: int | None = None
        """As in subprocess.Popen; None also where nobody can tell."""
        self._ended = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return self._ended.is_set()

    def end(self, returncode: int | None) -> None:
        self.returncode = returncode
        self._ended.set()

    async def wait(self) -> int | None:
        """The return code, once there is one."""
        await self._ended.wait()
        return self.returncode


class ForkServer:
    """Makes rank processes; its own process starts with the first, and anew should it be lost."""

    module = "cascade_core.ranks.fork_server"
    """What it runs."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._link: socket.socket | None = None
        self._listening: asyncio.Task[None] | None = None
        self._births: deque[asyncio.Future[RankProcess]] = deque()
        self._living: dict[int, RankProcess] = {}

    async def start_rank(self, descriptor: int) -> RankProcess:
        """A process that serves this end of a socket pair. Raises OSError where none can be started. Where
        the caller gives up meanwhile, what was started ends when the other end closes."""
        if self._link is None or self._listening is None or self._listening.done():
            await self.close()
            await self._start()
        assert self._link
        birth: asyncio.Future[RankProcess] = asyncio.get_running_loop().create_future()
        socket.send_fds(self._link, [b"\0"], [descriptor])
        self._births.append(birth)
        return await birth

    async def close(self) -> None:
        """End the fork server; its ranks have been told to end, or were killed."""
        if self._link is None:
            return
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)
        if self._process:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), END_S)
            with suppress(ProcessLookupError):
                self._process.kill()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), END_S)
        if self._listening:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        self._link.close()
        self._process = self._link = self._listening = None

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._link = ours
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", self.module, str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=STDERR,
                pass_fds=[theirs.fileno()],
                process_group=0,
                # numpy's threads: none may run at a fork
                env={**finding(self.module), "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        self._listening = asyncio.create_task(self._listen(ours), name="fork-server")

    async def _listen(self, link: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            with suppress(OSError):
                while news := await loop.sock_recv(link, NEWS.size):
                    self._hear(*NEWS.unpack(news))
        finally:
            while self._births:
                _settle(self._births.popleft(), ChildProcessError("the fork server of the ranks ended"))
            while self._living:
                self._abandon(*self._living.popitem())

    def _abandon(self, process_id: int, rank: RankProcess) -> None:
        """Kill a rank of whose end nobody would hear."""
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
        rank.end(None)

    def _hear(self, kind: int, process_id: int, status: int) -> None:
        if kind == DIED:
            self._living.pop(process_id).end(status)
        elif kind == FAILED:
            _settle(self._births.popleft(), OSError(status, os.strerror(status)))
        else:
            rank = self._living[process_id] = RankProcess(process_id)
            _settle(self._births.popleft(), rank)


def _settle(birth: asyncio.Future[RankProcess], outcome: RankProcess | Exception) -> None:
    if birth.done():  # the caller gave up
        return
    if isinstance(outcome, Exception):
        birth.set_exception(outcome)
    else:
        birth.set_result(outcome)
