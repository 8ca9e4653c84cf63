"""One step's process: what it says goes to a log, its time is bounded, and it does not outlive us."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.rented.places import ROOT

ASKED_S = 3.0
"""Between asking a process to end and killing it."""
LAUNCH = ROOT / "cascade_client" / "processes" / "launch.py"
"""Becomes a command that the kernel kills where we are killed."""


def run_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str], within_s: float
) -> int | None:
    """Its exit status, negative for a signal; None: it took longer, and was ended. Leaves no process."""
    launched = (sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), *command)
    with (
        log.open("wb") as output,
        subprocess.Popen(
            launched, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            return process.wait(timeout=max(0.0, within_s))
        except subprocess.TimeoutExpired:
            end(process)
            return None
        finally:
            kill(process, signal.SIGKILL)


def end(process: "subprocess.Popen[bytes]") -> None:
    kill(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=ASKED_S)


def kill(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Its whole group: also what a process that has ended left there."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def last_line(log: Path, max_bytes: int = 4096) -> str:
    """What a process said last."""
    lines = log.read_bytes()[-max_bytes:].decode(errors="replace").splitlines()  # bars end in \r
    return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
