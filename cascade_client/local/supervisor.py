"""Starts the services, restarts those that die, and stops them all."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cascade_client.console import CommandFailed
from cascade_client.local.plan import DRAIN_S, Process
from cascade_client.local.service import LocalService
from cascade_client.processes.restarts import Restarts
from cascade_client.race import race

FIRST_RESTART_S, LONGEST_RESTART_S = 0.5, 30.0

Tell = Callable[[str, dict[str, Any], str], None]
"""(kind of event, its values for programs, a line for people)."""


class Supervisor:
    """For one `cascade up`."""

    def __init__(self, processes: Sequence[Process], log_dir: Path, tell: Tell) -> None:
        self.services = [LocalService(process, log_dir) for process in processes]
        self._tell = tell
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()

    def stop(self) -> None:
        """Ask all to drain; called again: kill them."""
        if not self._stopping.is_set():
            self._tell("stopping", {}, "stopping; Ctrl-C again kills what is left")
        (self._hurried if self._stopping.is_set() else self._stopping).set()

    def heed_signals(self) -> None:
        """From now on they mean `stop`: to be called before anybody hears that there is something to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, self.stop)

    async def run(self, ready_within_s: float, announce: Callable[[], None]) -> None:
        """Until `stop`. Raises CommandFailed where a service does not come up."""
        try:
            await race(self._work(ready_within_s, announce), self._stopping.wait())
        finally:
            await self._stop_all()

    async def _work(self, ready_within_s: float, announce: Callable[[], None]) -> None:
        for service in self.services:
            await service.start(is_first=True)
        try:
            async with asyncio.timeout(ready_within_s):
                await self._all_ready()
        except TimeoutError:
            raise CommandFailed(f"not everything serves after {ready_within_s:g} s; see the logs") from None
        announce()
        watching = [asyncio.create_task(self._watch(service)) for service in self.services]
        try:
            await asyncio.gather(*watching)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _all_ready(self) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        waiting = {asyncio.create_task(self._ready(service)): service for service in self.services}
        bar = tqdm(total=len(waiting), desc="starting", unit="service", disable=None, leave=False)
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                bar.refresh()  # the clock goes on
                for task in done:
                    name = waiting.pop(task).process.name
                    task.result()
                    bar.update()
                    text = f"{name} serves after {loop.time() - started_at:.1f} s"
                    self._tell("serving", {"name": name}, text)
        finally:
            bar.close()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _ready(self, service: LocalService) -> None:
        """Raises CommandFailed if it dies on the way."""
        await race(service.serving(), service.child.wait())
        if service.child.status is not None:
            words = service.last_words()
            told = f": {words}" if words else ""
            raise CommandFailed(f"{service.process.name} did not start{told} (its log: {service.log_path})")

    async def _watch(self, service: LocalService) -> None:
        loop = asyncio.get_running_loop()
        restarts = Restarts(FIRST_RESTART_S, LONGEST_RESTART_S)
        name, log = service.process.name, service.log_path
        while True:
            born_at = loop.time()
            status = await service.child.wait()
            wait_s = restarts.wait_s(loop.time() - born_at)
            text = f"{name} died ({how(status)}) and starts again in {wait_s:g} s; its log: {log}"
            self._tell("died", {"name": name, "status": status}, text)
            await asyncio.sleep(wait_s)
            await service.start(is_first=False)
            self._tell("restarted", {"name": name, "pid": service.child.pid}, f"{name} was started again")

    async def _stop_all(self) -> None:
        """Gateways first, so that nobody moves sessions that end anyway; Redis last."""
        for roles in (("gateway",), ("stage", "decoder"), ("redis",)):
            services = [service for service in self.services if service.process.role in roles]
            hurry = asyncio.create_task(self._kill_if_hurried(services))
            await asyncio.gather(*(service.stop(DRAIN_S) for service in services))
            hurry.cancel()

    async def _kill_if_hurried(self, services: Sequence[LocalService]) -> None:
        await self._hurried.wait()
        for service in services:
            service.kill()


def how(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
