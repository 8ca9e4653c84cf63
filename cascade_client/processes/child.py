"""A child process that does not outlive us: asked to end, waited for, killed."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Self

from cascade_client.processes import launch

KILLED_WITHIN_S = 5.0
"""A hung driver can hold even a killed process."""
STDERR = 2
"""Where a child without a log writes; sys.stderr may be replaced by something that is no file."""
DEVNULL = asyncio.subprocess.DEVNULL


def dying_with_us() -> tuple[str, ...]:
    """What comes before a command that the kernel is to kill where we are killed outright (Linux)."""
    # -I -S: the launcher needs nothing but the standard library, and is gone at once.
    return (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()))


class Child:
    """A running process in a group of its own: a terminal's Ctrl-C is for us, who then end it. Where we are
    killed outright, the kernel kills it (Linux). `wait` or `end` has to follow."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path | None) -> None:
        self._process = process
        self._log = log
        self._is_over = False

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stdin: int = DEVNULL,
        stdout: int | None = None,
        limit: int = 2**16,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """What it prints goes on at the end of `log` (None: to our stderr), but for a `stdout` of its own.
        `environment` None: ours. `limit`: bytes of a line from a pipe. Raises OSError."""
        with ExitStack() as stack:
            output: IO[bytes] | int = stack.enter_context(log.open("ab")) if log else STDERR
            process = await asyncio.create_subprocess_exec(
                *dying_with_us(), *command, env=environment, cwd=folder, stdin=stdin,
                stdout=output if stdout is None else stdout, stderr=output, limit=limit, pass_fds=pass_fds,
                start_new_session=True,
            )  # fmt: skip
        return cls(process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None: it runs."""
        return self._process.returncode

    @property
    def stdin(self) -> asyncio.StreamWriter:
        """Of a child that was given a pipe."""
        assert self._process.stdin
        return self._process.stdin

    @property
    def stdout(self) -> asyncio.StreamReader:
        """Of a child that was given a pipe."""
        assert self._process.stdout
        return self._process.stdout

    async def wait(self) -> int:
        """Its exit status, negative for a signal. What it left in its group is killed."""
        status = await self._process.wait()
        self.kill()
        self._is_over = True  # its group's number may come to be another's
        return status

    def signal(self, number: int) -> None:
        """To the process itself: it tells those that it started."""
        if self.status is None:
            # Not Process.send_signal: it polls, which can take the exit status away from asyncio.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Its whole group, at once."""
        if not self._is_over:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self, *asks: Callable[[], object], within_s: float = 0.0) -> None:
        """Ask in one way after the other, each with so long to take effect; then kill. A caller who does not
        wait that long leaves no process either."""
        exit_ = asyncio.ensure_future(self.wait())
        try:
            for ask in asks:
                if not exit_.done():
                    ask()
                    await asyncio.wait({exit_}, timeout=within_s)
        finally:
            self.kill()
            await asyncio.wait({exit_}, timeout=KILLED_WITHIN_S)
            exit_.cancel()

    def log_tail(self, max_bytes: int) -> str:
        """The end of its log; empty where there is none."""
        with suppress(OSError):
            return self._log.read_bytes()[-max_bytes:].decode(errors="replace") if self._log else ""
        return ""
