"""Does to an installation what the plan says, and writes down when."""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil

from benchmarks.chaos.faults import Fault
from benchmarks.chaos.installation import Installation
from benchmarks.chaos.programs import Program, send

T = TypeVar("T")
TOGETHER_S = 8.0
"""Gateways have stored again by then what Redis lacked, once it is back."""
MAX_PUT_OFF = 2


@dataclass(frozen=True)
class Inflicted:
    """One fault that happened."""

    number: int
    fault: Fault
    what: str
    """Which one of the kind."""
    at_s: float
    """On this process's clock."""


@dataclass
class Inflictor:
    """Faults last while others begin."""

    installation: Installation
    done: list[Inflicted] = field(default_factory=list)
    _stored_s: float = 0.0
    """Until then gateways have something that Redis lacks."""
    _put_off: deque[Fault] = field(default_factory=lambda: deque(maxlen=MAX_PUT_OFF))
    """What Redis is to lose once the gateways have been there for a while."""
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    def due(self) -> list[Fault]:
        """One that was put off, and need not be any more."""
        is_due = self._put_off and not self._is_spared(self._put_off[0])
        return [self._put_off.popleft()] if is_due else []

    def inflict(self, fault: Fault) -> bool:
        """Whether there was something to do it to, now."""
        if self._is_spared(fault):
            self._put_off.extend([fault] * fault.empties_redis)
            return False
        what = self._begin(fault)
        if what and fault.empties_redis and not fault.is_reckless:
            self._stored_s = time.monotonic() + TOGETHER_S
        if what:
            self.done.append(Inflicted(len(self.done) + 1, fault, what, time.monotonic()))
        return bool(what)

    async def over(self) -> None:
        """Until nothing is frozen, paused or restarted any more."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _is_spared(self, fault: Fault) -> bool:
        """What Redis has and a gateway go together only where that is meant."""
        if fault.empties_redis and not fault.is_reckless:
            names = {gateway.name for gateway in self.installation.gateways}
            recent = [each for each in self.done if each.at_s > time.monotonic() - TOGETHER_S]
            is_quiet = not any(each.fault.takes_gateway for each in recent)
            return not is_quiet or bool(names.intersection(self.installation.outages.down))
        return fault.takes_gateway and (bool(self._put_off) or time.monotonic() < self._stored_s)

    def _begin(self, fault: Fault) -> str:
        match fault.action:
            case "CUT":
                return self._cut(fault)
            case _ if fault.target == "Redis":
                return self._redis(fault)
            case "KILL" | "TERM" | "CLOCK":
                return self._end(fault)
            case _:
                return self._stop(fault)

    def _cut(self, fault: Fault) -> str:
        installation = self.installation
        if fault.target.endswith("Redis"):
            return "redis" if installation.redis.front.cut() else ""
        kinds = {"gateway": installation.gateways, "stage": installation.stages}
        program = pick(kinds.get(fault.target.split()[-1], installation.decoders), fault.choice)
        return program.name if program and installation.fronts[program.name].cut() else ""

    def _redis(self, fault: Fault) -> str:
        redis = self.installation.redis
        if not redis.is_there:
            return ""
        if fault.action == "STOP":
            self._later(redis.pause(fault.seconds))
        elif fault.action == "FAIL OVER":
            self._later(redis.fail_over())
        else:
            self._later(redis.restart(is_asked=fault.action == "TERM", is_empty=fault.action == "EMPTY"))
        return "redis"

    def _end(self, fault: Fault) -> str:
        program = self._program(fault)
        if program is None:
            return ""
        number = signal.SIGKILL if fault.action == "KILL" else signal.SIGTERM
        if fault.action == "CLOCK":
            program.clock_s = fault.clock_s
        if fault.target in ("stage", "decoder", "gateway"):
            program.send(number)
            return program.name
        process = pick(inside(program, fault.target), fault.choice)
        if process is None:
            return ""
        send(process, number)
        program.note_outage()
        return f"{fault.target} of {program.name}"

    def _stop(self, fault: Fault) -> str:
        program = self._program(fault)
        if program is None:
            return ""
        if fault.target in ("stage", "decoder", "gateway"):
            program.freeze()
            self._later(self._thaw(program, fault.seconds))
            return program.name
        process = pick(inside(program, fault.target), fault.choice)
        if process is None:
            return ""
        self.installation.outages.begin(program.name)
        send(process, signal.SIGSTOP)
        self._later(self._continue(program, process, fault.seconds))
        return f"{fault.target} of {program.name}"

    async def _thaw(self, program: Program, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            program.thaw()
            program.note_outage()

    async def _continue(self, program: Program, process: psutil.Process, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            send(process, signal.SIGCONT)
            program.note_outage()

    def _program(self, fault: Fault) -> Program | None:
        """One that runs, of the kind that the target is or belongs to."""
        installation = self.installation
        kinds = {"gateway": installation.gateways, "decoder": installation.decoders}
        kinds["worker"] = installation.decoders
        there = [each for each in kinds.get(fault.target, installation.stages) if each.is_there]
        return pick(there, fault.choice)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


def inside(program: Program, target: str) -> list[psutil.Process]:
    kinds = {"rank": program.ranks, "fork server": program.fork_servers, "worker": program.workers}
    return kinds[target]()


def pick(some: Sequence[T], choice: float) -> T | None:
    return some[int(choice * len(some)) % len(some)] if some else None
