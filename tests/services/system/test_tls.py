"""TLS on all ports of the whole system: strangers at them, and new certificates, while a session plays."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cascade_client import Client, Segment, Tls
from tests.services.support.bad_handshakes import kinds, many
from tests.services.support.certificates import Authority
from tests.services.support.gateway_support import write_keys
from tests.services.support.redis_support import needs_redis
from tests.services.support.system import DECODER, GATEWAY, POLL_S, STAGE, WAIT_S, Program, Redis

pytestmark = [needs_redis, pytest.mark.slow, pytest.mark.timeout(900)]
NUMBER = 5000
PROMPT = "a red circle moves left on a white background"
RENEWED = "changed files taken over"
REDIS_BACK_S = 5.0
"""For what Redis lacks to be stored."""


class Machines:
    """A stage, a decoder and two gateways that share a Redis, speak TLS alone, and ask clients for a key."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.redis = Authority(folder / "ours"), Redis()
        self.certificate, self.key = self.authority.issue("server")
        write_keys(folder / "keys.toml", ["acme"])
        (folder / "token.key").write_bytes(os.urandom(32))
        tls = {
            "CASCADE_TLS_CERTIFICATE": str(self.certificate),
            "CASCADE_TLS_KEY": str(self.key),
            "CASCADE_GRPC_HANDSHAKE_TIMEOUT_S": "1",
        }
        self.stage = Program("stage", 0, folder, STAGE | tls)
        self.decoder = Program("decoder", 0, folder, DECODER | tls)
        own = {
            "CASCADE_GATEWAY_STAGES": self.stage.address,
            "CASCADE_GATEWAY_DECODERS": self.decoder.address,
            "CASCADE_GATEWAY_REDIS_URL": self.redis.url,
            "CASCADE_GATEWAY_TOKEN_KEY_FILE": str(folder / "token.key"),
            "CASCADE_AUTH_MODES": "api_keys",
            "CASCADE_AUTH_KEYS_FILE": str(folder / "keys.toml"),
            "CASCADE_PEER_TLS": "true",
            "CASCADE_PEER_CA": str(self.authority.path),
        }
        self.gateways = [Program("gateway", number, folder, GATEWAY | tls | own) for number in range(2)]

    @property
    def programs(self) -> list[Program]:
        return [self.stage, self.decoder, *self.gateways]

    def client(self) -> Client:
        addresses = ",".join(gateway.address for gateway in self.gateways)
        tls = Tls(ca=self.authority.path)
        return Client(addresses, api_key="key-acme", tls=tls, retry_for_s=WAIT_S)

    def close(self) -> None:
        for program in self.programs:
            program.close()
        self.redis.close()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    found = Machines(tmp_path)
    for program in found.programs:
        program.start()
    deadline = time.monotonic() + WAIT_S
    while not all(program.logged("serving") for program in found.programs):
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
    yield found
    found.close()


class Viewing:
    """A session as its controller gets it."""

    def __init__(self) -> None:
        self.sequences = [0]
        self.epochs = set[int]()

    async def goes_on(self) -> None:
        """Three segments more."""
        wanted = self.sequences[-1] + 3
        async with asyncio.timeout(WAIT_S):
            while self.sequences[-1] < wanted:  # noqa: ASYNC110 (the stream is another task's)
                await asyncio.sleep(0.05)


@asynccontextmanager
async def playing(machines: Machines) -> AsyncIterator[Viewing]:
    """Each segment once, in order, to the end of the block, which the stream outlives."""
    viewing = Viewing()

    async def play() -> None:
        async with machines.client() as client:
            session = await client.create(PROMPT, seed=1)
            async with client.connect(session) as stream:
                async for event in stream:
                    if isinstance(event, Segment):
                        viewing.sequences.append(event.sequence)
                        viewing.epochs.add(event.epoch)

    task = asyncio.create_task(play())
    try:
        await viewing.goes_on()
        yield viewing
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert viewing.sequences == list(range(len(viewing.sequences)))


async def test_strangers_harm_nobody(tmp_path: Path, machines: Machines) -> None:
    stranger = Authority(tmp_path / "theirs")
    async with playing(machines) as viewing:
        for program in machines.programs:
            port = int(program.address.rpartition(":")[2])
            for connect in kinds(stranger.path).values():
                await many(connect, port, NUMBER)
                await viewing.goes_on()
        assert all(program.is_running for program in machines.programs)
        assert viewing.epochs == {1}, "nothing was lost on the way"


async def test_certificates_are_renewed_and_then_everything_fails(machines: Machines) -> None:
    """Renewed twice under open streams, of which none is lost; then Redis is away for a moment, and then the
    gateway is killed that the client is at."""
    async with playing(machines) as viewing:
        for number in range(1, 3):
            for path in machines.authority.issue(f"renewed-{number}"):
                path.replace(machines.key if path.suffix == ".key" else machines.certificate)
            async with asyncio.timeout(WAIT_S):
                while not all(len(each.logged(RENEWED)) >= number for each in machines.programs):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await viewing.goes_on()
        assert viewing.epochs == {1}
        await asyncio.to_thread(machines.redis.kill)
        await viewing.goes_on()
        await asyncio.to_thread(machines.redis.start)
        await viewing.goes_on()
        await asyncio.sleep(REDIS_BACK_S)
        await asyncio.to_thread(machines.gateways[0].kill)
        await viewing.goes_on()
        assert max(viewing.epochs) > 1
