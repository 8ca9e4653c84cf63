"""Many sessions on one gateway process, over stages and decoders that only send: what the gateway adds."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.services_processes import MIB, ROOT, Measured, child, redis, service

Row = dict[str, Any]
READY_S = 120.0
RESULT_S = 60.0
SETTLE_S = 5.0
"""All sessions begin within one interval, which leaves work that is no part of playing."""


@dataclass(frozen=True)
class Load:
    """One run: playback at real size and rate."""

    num_sessions: int = 200
    seconds: float = 30.0
    """That are counted."""
    uses_redis: bool = False
    latent_bytes: int = 600_000
    """Of a block of three latent frames of 832x480 in bfloat16: 3 x 16 x 60 x 104 numbers."""
    segment_bytes: int = 150_000
    interval_s: float = 0.75
    """12 pictures at 16 fps."""
    num_client_processes: int = 2
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further `CASCADE_` variables of the gateway."""
    checkout: Path = ROOT
    """Whose gateway is measured; stage, decoder and clients are this one's."""


@dataclass
class Outcome:
    """What clients saw and processes used."""

    load: Load
    seconds: float
    num_segments: int
    faults: list[str]
    added_ms: list[float]
    """Per segment, ascending."""
    cores: dict[str, float] = field(default_factory=dict)
    """CPU seconds per second, by process."""
    machine_cores: float = 0.0
    """Of everything that ran on the machine."""
    rss_bytes: int = 0
    """Of the gateway, at the end."""
    grown_bytes: int = 0
    """What the gateway grew by while the clients counted."""

    @property
    def num_expected(self) -> float:
        return self.load.num_sessions * self.seconds / self.load.interval_s

    def added(self, share: float) -> float:
        """Milliseconds that this share of the segments did not exceed; infinite where none came."""
        if not self.added_ms:
            return float("inf")
        return self.added_ms[min(len(self.added_ms) - 1, int(share * len(self.added_ms)))]

    def row(self) -> Row:
        load = self.load
        gateway = self.cores["gateway"]
        return {
            "journal": "redis" if load.uses_redis else "memory",
            "sessions": load.num_sessions,
            "segments": self.num_segments,
            "of_playback": self.num_segments / self.num_expected,
            "faults": len(self.faults),
            "added_p50_ms": self.added(0.5),
            "added_p99_ms": self.added(0.99),
            "gateway_cores": gateway,
            "sessions_per_core": load.num_sessions / gateway,
            "ms_per_block": 1e3 * gateway * self.seconds / max(1, self.num_segments),
            "gateway_rss_mib": self.rss_bytes / MIB,
            "other_cores": sum(self.cores.values()) - gateway,
            "machine_cores": self.machine_cores,
        }


async def measure(load: Load) -> Outcome:
    """Start everything, let it play, end it. Raises RuntimeError where a process does not do its part."""
    async with AsyncExitStack() as stack:
        processes: dict[str, Measured] = {}
        enter = stack.enter_async_context
        stage = processes["stage"] = await enter(
            fake("stage", "--bytes", load.latent_bytes, "--interval", load.interval_s)
        )
        decoder = processes["decoder"] = await enter(fake("decoder", "--bytes", load.segment_bytes))
        environment = {
            "CASCADE_GATEWAY_STAGES": stage.address,
            "CASCADE_GATEWAY_DECODERS": decoder.address,
            "CASCADE_GATEWAY_MAX_SESSIONS_PER_TENANT": "1000",
            "CASCADE_GATEWAY_JOURNAL_BYTES": str(64 * 2**30),
            "CASCADE_DRAIN_DEADLINE_S": "1",
            **load.settings,
        }
        if load.uses_redis:
            url, processes["redis"] = await enter(redis())
            environment["CASCADE_GATEWAY_REDIS_URL"] = url
            key = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "key"
            key.write_bytes(os.urandom(32))
            environment["CASCADE_GATEWAY_TOKEN_KEY_FILE"] = str(key)
        gateway = processes["gateway"] = await enter(
            service("services.gateway", environment, checkout=load.checkout)
        )
        clients = [await enter(client_process(gateway, load, number)) for number in client_numbers(load)]
        processes |= {client.name: client for client in clients}
        await asyncio.gather(*(line_of(client, READY_S) for client in clients))
        await asyncio.sleep(SETTLE_S)
        outcome = await count(load, processes, clients)
        if outcome.faults:
            outcome.faults += complaints(gateway)
        return outcome


async def count(load: Load, processes: dict[str, Measured], clients: Sequence[Measured]) -> Outcome:
    """Let the clients count while the processes' use is taken."""
    before, machine_s, started = usages(processes), busy_s(), time.monotonic()
    say(clients, "go")
    await asyncio.sleep(load.seconds)
    say(clients, "stop")
    seconds, after = time.monotonic() - started, usages(processes)
    outcome = Outcome(load, seconds, 0, [], [])
    outcome.machine_cores = (busy_s() - machine_s) / seconds
    outcome.cores = {name: (after[name].cpu_s - before[name].cpu_s) / seconds for name in processes}
    outcome.rss_bytes = after["gateway"].rss_bytes
    outcome.grown_bytes = after["gateway"].rss_bytes - before["gateway"].rss_bytes
    for line in await asyncio.gather(*(line_of(client, RESULT_S) for client in clients)):
        tally = json.loads(line)
        outcome.num_segments += tally["num_segments"]
        outcome.faults += tally["faults"]
        outcome.added_ms += tally["added_ms"]
    outcome.added_ms.sort()
    return outcome


def fake(kind: str, *options: object) -> AbstractAsyncContextManager[Measured]:
    """A stage or a decoder that only sends."""
    return service("benchmarks.services_fakes", {}, kind, *map(str, options))


def complaints(gateway: Measured) -> list[str]:
    """What its log says went wrong: the first lines."""
    lines = gateway.text().splitlines()
    return [line for line in lines if '"level": "info"' not in line and '"level": "debug"' not in line][:20]


def client_numbers(load: Load) -> list[int]:
    """How many sessions each client process has."""
    share, rest = divmod(load.num_sessions, load.num_client_processes)
    return [share + (index < rest) for index in range(load.num_client_processes) if share + (index < rest)]


def client_process(gateway: Measured, load: Load, num_sessions: int) -> AbstractAsyncContextManager[Measured]:
    """LoadClients against this gateway."""
    options = {
        "--target": gateway.address,
        "--sessions": num_sessions,
        "--interval": load.interval_s,
        "--segment-bytes": load.segment_bytes,
    }
    arguments = [str(part) for option in options.items() for part in option]
    command = (sys.executable, "-m", "benchmarks.services_clients", *arguments)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = asyncio.subprocess.PIPE
    name = f"clients {num_sessions} {os.urandom(2).hex()}"
    return child(name, command, environment, stdin=pipe, stdout=pipe, limit=64 * MIB)


async def line_of(client: Measured, deadline_s: float) -> bytes:
    """The next line of a client process. Raises RuntimeError where none comes."""
    try:
        line = await asyncio.wait_for(client.child.stdout.readline(), deadline_s)
    except TimeoutError:
        line = b""
    if not line:
        raise RuntimeError(f"{client.name}: ended, or silent for {deadline_s:g} s\n{client.text()[-3000:]}")
    return line


def say(clients: Sequence[Measured], word: str) -> None:
    for client in clients:
        client.child.stdin.write(f"{word}\n".encode())


def usages(processes: dict[str, Measured]) -> dict[str, Any]:
    return {name: process.usage() for name, process in processes.items()}


def busy_s() -> float:
    """CPU seconds of this machine so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)
