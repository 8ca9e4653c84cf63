"""Everything that is killed: gateways, stages, decoders and Redis, each behind a connection that can be cut.

async with running(Shape(), folder) as installation:
    await installation.ready()
"""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.chaos.outages import Outages
from benchmarks.chaos.programs import ROOT, Program
from benchmarks.chaos.redis_pair import RedisPair
from cascade_client.channel import Tls
from tests.services.support.certificates import Authority
from tests.services.support.front import Front
from tests.services.support.ports import free_port

MARK = "CHAOS_RUN"
"""In the environment of every process, by which those are found that were left."""
TENANT = "chaos"
COMMON = {
    "CASCADE_HEALTH_CHECK_INTERVAL_S": "0.1",
    "CASCADE_DRAIN_DEADLINE_S": "10",
    "CASCADE_DRAIN_GRACE_S": "2",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
STAGE = {
    "CASCADE_STAGE_DEVICE": "cpu",
    "CASCADE_STAGE_THREADS_PER_RANK": "1",
    "CASCADE_STAGE_TICK_DEADLINE_S": "8",
    "CASCADE_STAGE_REQUEST_DEADLINE_S": "8",
    "CASCADE_HEALTH_STALL_AFTER_S": "3",
}
DECODER = {
    "CASCADE_DECODER_DEVICE": "cpu",
    "CASCADE_DECODER_BLOCK_DEADLINE_S": "8",
    "CASCADE_HEALTH_STALL_AFTER_S": "3",
}
GATEWAY = {"CASCADE_GATEWAY_STALL_TIMEOUT_S": "10", "CASCADE_DRAIN_NOTICE_S": "0.5"}


@dataclass(frozen=True)
class Shape:
    """How many of each, and how they speak."""

    engine: str = "fake"
    """fake: ranks and workers that compute nothing. demo: the demo model."""
    num_gateways: int = 2
    num_stages: int = 3
    num_decoders: int = 3
    places: int = 8
    """Of each stage and each decoder."""
    num_ranks: int = 2
    """Of each stage."""
    uses_tls: bool = False
    """TLS on every port, and keys of clients and of Redis."""


class Installation:
    """As an operator has it, and what is down of it."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        self.shape = shape
        self.folder = folder
        self.mark = secrets.token_hex(8)
        self.outages = Outages()
        self.tls: Tls | None = None
        self.api_key: str | None = None
        self.redis = RedisPair(folder, secrets.token_hex(8) if shape.uses_tls else "", self.outages)
        self._common = clean_environment() | COMMON | {MARK: self.mark}
        if shape.uses_tls:
            self._use_tls()
        self.stages = [self._machine("stage", number) for number in range(shape.num_stages)]
        self.decoders = [self._machine("decoder", number) for number in range(shape.num_decoders)]
        self.fronts = {program.name: Front(program.address) for program in (*self.stages, *self.decoders)}
        """Of each program, what others reach it by."""
        self.gateways: list[Program] = []

    @property
    def programs(self) -> list[Program]:
        return [*self.stages, *self.decoders, *self.gateways]

    def targets(self, first: int = 0) -> str:
        """For a client: the gateways, in turn from that one on."""
        addresses = [self.fronts[gateway.name].address for gateway in self.gateways]
        first %= len(addresses)
        return ",".join(addresses[first:] + addresses[:first])

    async def start(self) -> None:
        """All at once."""
        await self.redis.start()
        for front in self.fronts.values():
            await front.start()
        shared = self._gateway_environment()
        for number in range(self.shape.num_gateways):
            gateway = self._program("gateway", number, {**GATEWAY, **shared})
            self.gateways.append(gateway)
            front = self.fronts[gateway.name] = Front(gateway.address)
            await front.start()
        for program in self.programs:
            program.start()

    async def ready(self) -> None:
        """Until everything serves. Raises TimeoutError."""
        for program in self.programs:
            await program.serving()

    async def close(self) -> None:
        for kind in (self.gateways, [*self.stages, *self.decoders]):
            await asyncio.gather(*(program.close() for program in kind))
        for front in self.fronts.values():
            await front.close()
        await self.redis.close()

    def rss_bytes(self) -> dict[str, int]:
        """By kind, all of it together."""
        kinds = {"gateway": self.gateways, "stage": self.stages, "decoder": self.decoders}
        found = {kind: sum(each.rss_bytes() for each in programs) for kind, programs in kinds.items()}
        return found | {"redis": self.redis.rss_bytes()}

    def orphans(self) -> list[psutil.Process]:
        """Processes whose starter is gone; once the installation is closed, all that are left."""
        ours = {process.pid for program in self.programs for process in program.processes()}
        return [process for process in marked(self.mark) if process.pid not in ours]

    def _machine(self, kind: str, number: int) -> Program:
        places = str(self.shape.places)
        if kind == "stage":
            ranks = {"CASCADE_STAGE_NUM_RANKS": str(self.shape.num_ranks)}
            return self._program(kind, number, STAGE | ranks | {"CASCADE_STAGE_MAX_SESSIONS": places})
        return self._program(kind, number, DECODER | {"CASCADE_DECODER_MAX_SESSIONS": places})

    def _program(self, kind: str, number: int, own: Mapping[str, str]) -> Program:
        environment = {**self._common, **own}
        engine = self.shape.engine
        return Program(kind, number, engine, free_port(), environment, self.folder, self.tls, self.outages)

    def _gateway_environment(self) -> dict[str, str]:
        key = self.folder / "token.key"
        key.write_bytes(secrets.token_bytes(32))
        found = {
            "CASCADE_GATEWAY_STAGES": ",".join(self.fronts[each.name].address for each in self.stages),
            "CASCADE_GATEWAY_DECODERS": ",".join(self.fronts[each.name].address for each in self.decoders),
            "CASCADE_GATEWAY_REDIS_URL": self.redis.url,
            "CASCADE_GATEWAY_TOKEN_KEY_FILE": str(key),
        }
        if self.tls:
            found |= {
                "CASCADE_AUTH_MODES": "api_keys",
                "CASCADE_AUTH_KEYS_FILE": str(self._write_keys()),
                "CASCADE_PEER_TLS": "true",
                "CASCADE_PEER_CA": str(self.tls.ca),
            }
        return found

    def _use_tls(self) -> None:
        authority = Authority(self.folder / "tls")
        certificate, key = authority.issue("server")
        self._common |= {"CASCADE_TLS_CERTIFICATE": str(certificate), "CASCADE_TLS_KEY": str(key)}
        self.tls = Tls(ca=authority.path)
        self.api_key = secrets.token_hex(16)

    def _write_keys(self) -> Path:
        assert self.api_key
        digest = hashlib.sha256(self.api_key.encode()).hexdigest()
        path = self.folder / "keys.toml"
        path.write_text(f'[[keys]]\nname = "{TENANT}"\ntenant = "{TENANT}"\nsha256 = "{digest}"\n')
        return path


@asynccontextmanager
async def running(shape: Shape, folder: Path) -> AsyncIterator[Installation]:
    """Started; `ready` follows."""
    installation = Installation(shape, folder)
    try:
        await installation.start()
        yield installation
    finally:
        await installation.close()


def clean_environment() -> dict[str, str]:
    """This one's, without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CASCADE_")}


def marked(mark: str) -> list[psutil.Process]:
    """All processes that were started with it, themselves or by others."""
    return [process for process in psutil.process_iter() if mark_of(process) == mark]


def mark_of(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        found: str | None = process.environ().get(MARK)
        return found
    except psutil.Error:
        return None
