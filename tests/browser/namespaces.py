"""Two network namespaces with a line between them. As root alone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.paths import ROOT
from tests.services.support.redis_support import DIE_WITH_US

HERE, THERE = "10.99.7.1", "10.99.7.2"


def program_in(namespace: str, program: str, folder: Path) -> Path:
    """A file that runs this program there, with the same arguments."""
    script = folder / Path(program).name
    script.write_text(f'#!/bin/sh\nexec ip netns exec {namespace} {program} "$@"\n')
    script.chmod(0o755)
    return script


@contextmanager
def two_namespaces(delay_s: float, loss: float, kbit_per_s: float = 0) -> Iterator[tuple[str, str]]:
    """Their names; `HERE` and `THERE` are their addresses. The delay is that of each way, and so are loss,
    a share of the packets, and what the line carries; 0: any."""
    names = f"cascade-here-{os.getpid()}", f"cascade-there-{os.getpid()}"
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        with line_between(*names, delay_s, loss, kbit_per_s):
            for name, address in zip(names, (HERE, THERE), strict=True):
                ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
                ip("-n", name, "link", "set", "wire", "up")
            yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def line_between(here: str, there: str, delay_s: float, loss: float, kbit_per_s: float) -> Iterator[None]:
    arguments = [here, there, str(1000 * delay_s), str(loss), str(kbit_per_s)]
    command = [*DIE_WITH_US, sys.executable, "-m", "tests.browser.line", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as line:
        try:
            assert line.stdout
            assert line.stdout.readline() == b"ready\n"
            yield
        finally:
            line.kill()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
