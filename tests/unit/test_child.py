"""How a child process ends."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cascade_client.processes.child import Child
from cascade_client.processes.restarts import STEADY_AFTER_S, Restarts
from tests.paths import ROOT

WAIT_S = 30.0
DEMO = """
import asyncio, sys
from pathlib import Path
from demo_world.system import running_system

async def main():
    async with running_system(Path(sys.argv[1]), {}):
        await asyncio.sleep(600)

asyncio.run(main())
"""
DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
os.fork()  # what it leaves in its group
print(os.getpid(), flush=True)
while True:
    time.sleep(1)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


async def test_who_hears_nothing_is_asked_each_way_and_killed_with_its_group(tmp_path: Path) -> None:
    child = await Child.start((sys.executable, "-c", DEAF), log=tmp_path / "log")
    await until(lambda: child.log_tail(4096).count("\n") == 2)
    pids = [int(line) for line in child.log_tail(4096).split()]
    assert child.pid in pids
    asked: list[int | None] = []
    await child.end(child.terminate, lambda: asked.append(child.status), within_s=0.2)
    assert asked == [None]
    assert child.status == -signal.SIGKILL
    assert "asked" in child.log_tail(4096)
    await until(lambda: not any(map(is_running, pids)))


async def test_what_a_child_leaves_in_its_group_goes_with_it(tmp_path: Path) -> None:
    leaves = "import os, time; pid = os.fork(); print(pid, flush=True) if pid else time.sleep(600)"
    child = await Child.start((sys.executable, "-c", leaves), log=tmp_path / "log")
    assert await asyncio.wait_for(child.wait(), WAIT_S) == 0
    left = int(child.log_tail(4096))
    await until(lambda: not is_running(left))


async def test_who_ends_by_itself_is_not_asked_again() -> None:
    child = await Child.start((sys.executable, "-c", "input()"), stdin=asyncio.subprocess.PIPE)
    asked: list[int] = []
    async with asyncio.timeout(WAIT_S):
        await child.end(lambda: child.stdin.write(b"\n"), lambda: asked.append(1), within_s=WAIT_S)
    assert (child.status, asked) == (0, [])


async def test_a_demo_that_is_killed_leaves_no_services(tmp_path: Path) -> None:
    """`cascade up` is stopped here, so that it does not find out by writing to a pipe that is broken."""
    demo = await asyncio.create_subprocess_exec(sys.executable, "-c", DEMO, str(tmp_path), cwd=ROOT)
    await until(lambda: len(psutil.Process(demo.pid).children()) == 1)
    (up,) = psutil.Process(demo.pid).children()
    await until(lambda: "cascade_client" in up.cmdline() and "launch.py" not in " ".join(up.cmdline()))
    up.suspend()
    demo.kill()
    await demo.wait()
    try:
        await until(lambda: not is_running(up.pid))
    finally:
        with suppress(psutil.NoSuchProcess):
            up.kill()


async def test_a_caller_who_does_not_wait_leaves_no_process() -> None:
    child = await Child.start((sys.executable, "-c", "import time; time.sleep(600)"))
    ending = asyncio.ensure_future(child.end(lambda: None, within_s=WAIT_S))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert child.status == -signal.SIGKILL


async def test_the_group_of_a_child_that_is_gone_is_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number may be another's by then."""
    child = await Child.start((sys.executable, "-c", ""))
    assert await child.wait() == 0
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: killed.append(group))
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
    child.kill()
    child.terminate()
    await child.end(child.terminate, within_s=WAIT_S)
    assert killed == []


def test_waits_double_until_a_child_has_lasted() -> None:
    restarts = Restarts(0.5, 3.0)
    assert [restarts.wait_s(lived_s=1.0) for _ in range(4)] == [0.5, 1.0, 2.0, 3.0]
    assert [restarts.wait_s(lived_s) for lived_s in (1.0, STEADY_AFTER_S + 1, 1.0)] == [3.0, 0.5, 1.0]
