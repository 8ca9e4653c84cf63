"""Starts the children, restarts those that die, and stops them all."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cascade_client.console import CommandFailed
from cascade_client.processes.child import Child
from cascade_client.processes.plan import DRAIN_S, Process

FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 30.0
STEADY_AFTER_S = 60.0
"""A child that lived so long starts again without a wait."""

Tell = Callable[[str, dict[str, Any], str], None]
"""(kind of event, its values for programs, a line for people)."""


class Supervisor:
    """For one `cascade up`."""

    def __init__(self, processes: Sequence[Process], log_dir: Path, tell: Tell) -> None:
        self.children = [Child(process, log_dir) for process in processes]
        self._tell = tell
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()

    def stop(self) -> None:
        """Ask all to drain; called again: kill them."""
        (self._hurried if self._stopping.is_set() else self._stopping).set()

    async def run(self, ready_within_s: float, announce: Callable[[], None]) -> None:
        """Until `stop`. Raises CommandFailed where a child does not come up."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        stopping = asyncio.create_task(self._stopping.wait())
        work = asyncio.create_task(self._work(ready_within_s, announce))
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, stopping):
                task.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)
            await self._stop_all()

    async def _work(self, ready_within_s: float, announce: Callable[[], None]) -> None:
        for child in self.children:
            await child.start(is_first=True)
        try:
            async with asyncio.timeout(ready_within_s):
                await self._all_ready()
        except TimeoutError:
            raise CommandFailed(f"not everything serves after {ready_within_s:g} s; see the logs") from None
        announce()
        watching = [asyncio.create_task(self._watch(child)) for child in self.children]
        try:
            await asyncio.gather(*watching)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _all_ready(self) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        waiting = {asyncio.create_task(self._ready(child)): child for child in self.children}
        bar = tqdm(total=len(waiting), desc="starting", unit="service", disable=None, leave=False)
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                bar.refresh()  # the clock goes on
                for task in done:
                    child = waiting.pop(task)
                    task.result()
                    bar.update()
                    text = f"{child.process.name} serves after {loop.time() - started_at:.1f} s"
                    self._tell("serving", {"name": child.process.name}, text)
        finally:
            bar.close()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _ready(self, child: Child) -> None:
        """Raises CommandFailed if it dies on the way."""
        serving = asyncio.create_task(child.serving())
        dying = asyncio.create_task(child.wait())
        try:
            await asyncio.wait({serving, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not dying.done():
                return
            words = child.last_words()
            told = f": {words}" if words else ""
            raise CommandFailed(f"{child.process.name} did not start{told} (its log: {child.log_path})")
        finally:
            for task in (serving, dying):
                task.cancel()
            await asyncio.gather(serving, dying, return_exceptions=True)

    async def _watch(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        wait_s = FIRST_RESTART_S
        while True:
            born_at = loop.time()
            status = await child.wait()
            wait_s = FIRST_RESTART_S if loop.time() - born_at > STEADY_AFTER_S else wait_s
            name = child.process.name
            text = f"{name} died ({how(status)}) and starts again in {wait_s:g} s; its log: {child.log_path}"
            self._tell("died", {"name": name, "status": status}, text)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RESTART_S)
            await child.start(is_first=False)
            self._tell("restarted", {"name": name, "pid": child.pid}, f"{name} was started again")

    async def _stop_all(self) -> None:
        """Gateways first, so that nobody moves sessions that end anyway; Redis last."""
        for roles in (("gateway",), ("stage", "decoder"), ("redis",)):
            children = [child for child in self.children if child.process.role in roles]
            for child in children:
                child.ask_to_stop()
            stopping = [asyncio.create_task(child.stopped(DRAIN_S)) for child in children]
            hurry = asyncio.create_task(self._kill_if_hurried(children))
            await asyncio.gather(*stopping)
            hurry.cancel()

    async def _kill_if_hurried(self, children: Sequence[Child]) -> None:
        await self._hurried.wait()
        for child in children:
            child.signal(signal.SIGKILL)


def how(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
