"""The process that opens strangers' files has nowhere to go."""

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT

TRY = """
import os, socket, sys, threading
from services.decoder.start_worker import close_doors, import_all

import_all()
close_doors(256 * 2**20, 20)


def attempt(what):
    try:
        what()
    except (OSError, MemoryError, RuntimeError):
        return "refused"
    return "done"


tries = {
    "file": lambda: open("/etc/hostname"),
    "socket": socket.socket,
    "memory": lambda: bytearray(512 * 2**20),
    "little memory": lambda: bytearray(64 * 2**20),
    "thread": lambda: threading.Thread(target=int).start(),
    "program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
}
for name, what in tries.items():
    if name in sys.argv:
        print(f"{name}: {attempt(what)}", flush=True)
os._exit(0)
"""


def tried(*names: str) -> dict[str, str]:
    """What became of each."""
    command = [sys.executable, "-c", TRY, *names]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout
    return dict(line.split(": ") for line in said.splitlines())


def test_it_opens_nothing_and_takes_no_more_than_its_memory() -> None:
    assert tried("file", "socket", "memory", "little memory") == {
        "file": "refused",
        "socket": "refused",
        "memory": "refused",
        "little memory": "done",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="the kernel counts no processes of root's")
def test_it_starts_nothing() -> None:
    assert tried("thread", "program") == {"thread": "refused", "program": "refused"}
