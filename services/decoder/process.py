"""The service's end of its worker process: start it, talk to it, kill it."""

import asyncio
import signal
import socket
import sys
from types import TracebackType
from typing import Self

from cascade_client.processes.child import Child
from cascade_core.errors import CascadeError
from cascade_core.ranks.pipe import pack, read_message
from cascade_core.ranks.source import finding
from services.decoder.messages import Command, DecoderReady, DecoderUnusable, LoadDecoder, Reply

CLOSE_GRACE_S = 3.0


class WorkerLost(Exception):
    """The worker died, hung, or answered what makes no sense."""


class WorkerUnusable(CascadeError):
    """The worker cannot load the decoder: something that another start alone may not mend."""


class WorkerProcess:
    """`async with`: a process that has loaded the decoder, and is gone at the end."""

    module = "services.decoder.worker"
    """What it runs."""

    def __init__(self, load: LoadDecoder, start_deadline_s: float) -> None:
        self._load = load
        self._start_deadline_s = start_deadline_s
        self.ready: DecoderReady

    @property
    def pid(self) -> int:
        return self._child.pid

    async def __aenter__(self) -> Self:
        """Raises WorkerLost or WorkerUnusable."""
        await self._spawn()
        try:
            async with asyncio.timeout(self._start_deadline_s):
                await self.send(self._load)
                first = await self.receive()
        except TimeoutError:
            await self._end()
            raise WorkerLost(f"did not load within {self._start_deadline_s:g} s") from None
        except BaseException:
            await self._end()
            raise
        if isinstance(first, DecoderReady):
            self.ready = first
            return self
        await self._end()
        why = first.reason if isinstance(first, DecoderUnusable) else f"said {type(first).__name__}"
        raise WorkerUnusable(why)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(at_once=error is not None and not isinstance(error, asyncio.CancelledError))

    async def send(self, command: Command) -> None:
        """Raises WorkerLost. Waits where the worker does not read."""
        self.post(command)
        try:
            await self._writer.drain()
        except ConnectionError:
            raise WorkerLost("ended") from None

    def post(self, command: Command) -> None:
        """Send without waiting; for commands of a few bytes."""
        self._writer.write(pack(command))

    async def receive(self) -> Reply:
        """The next reply; raises WorkerLost."""
        try:
            reply: Reply = await read_message(self._reader)
            return reply
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        async with asyncio.timeout(CLOSE_GRACE_S):
            code = await self._child.wait()
        hint = " (killed, perhaps for lack of memory)" if code == -signal.SIGKILL else ""
        raise WorkerLost(f"ended with exit status {code}{hint}")

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            command = (sys.executable, "-P", "-m", self.module, str(theirs.fileno()))
            try:
                self._child = await Child.start(
                    command, environment=finding(self.module), pass_fds=[theirs.fileno()]
                )
            except BaseException:
                self._writer.close()
                raise

    async def _end(self, *, at_once: bool = True) -> None:
        """Ask (close the pipe), wait a little unless it failed, kill."""
        await self._child.end(self._writer.close, within_s=0.0 if at_once else CLOSE_GRACE_S)
