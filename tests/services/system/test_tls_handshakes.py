"""Strangers at the TLS ports of all three services while a session plays."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cascade_client import Client, Segment, Tls
from tests.services.support.bad_handshakes import kinds, many
from tests.services.support.certificates import Authority
from tests.services.support.system import DECODER, GATEWAY, STAGE, WAIT_S, Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NUMBER = 5000
PROMPT = "a red circle moves left on a white background"
PORTS = ("stage", "decoder", "gateway")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def programs(tmp_path: Path, authority: Authority) -> Iterator[dict[str, Program]]:
    """A stage, a decoder and a gateway, which speak TLS alone."""
    certificate, key = authority.issue("server")
    tls = {
        "CASCADE_TLS_CERTIFICATE": str(certificate),
        "CASCADE_TLS_KEY": str(key),
        "CASCADE_GRPC_HANDSHAKE_TIMEOUT_S": "1",
    }
    stage, decoder = (
        Program("stage", 0, tmp_path, STAGE | tls),
        Program("decoder", 0, tmp_path, DECODER | tls),
    )
    peers = {
        "CASCADE_GATEWAY_STAGES": stage.address,
        "CASCADE_GATEWAY_DECODERS": decoder.address,
        "CASCADE_PEER_TLS": "true",
        "CASCADE_PEER_CA": str(authority.path),
    }
    found = {
        "stage": stage,
        "decoder": decoder,
        "gateway": Program("gateway", 0, tmp_path, GATEWAY | tls | peers),
    }
    for program in found.values():
        program.start()
    yield found
    for program in found.values():
        program.close()


async def test_a_session_plays_on(tmp_path: Path, authority: Authority, programs: dict[str, Program]) -> None:
    stranger = Authority(tmp_path / "theirs")
    tls, gateway = Tls(ca=authority.path), programs["gateway"].address
    async with asyncio.timeout(WAIT_S), Client(gateway, tls=tls) as client:
        while True:
            try:
                session = await client.create(PROMPT, seed=1)
                break
            except Exception:  # it starts
                await asyncio.sleep(0.2)
    sequences, epochs = [0], set[int]()

    async def play() -> None:
        async with Client(gateway, tls=tls) as client, client.connect(session) as stream:
            async for event in stream:
                if isinstance(event, Segment):
                    sequences.append(event.sequence)
                    epochs.add(event.epoch)

    async def plays_on() -> None:
        wanted = sequences[-1] + 3
        async with asyncio.timeout(WAIT_S):
            while sequences[-1] < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    playing = asyncio.create_task(play())
    await plays_on()
    for name in PORTS:
        port = int(programs[name].address.rpartition(":")[2])
        for connect in kinds(stranger.path).values():
            await many(connect, port, NUMBER)
            await plays_on()
    assert not playing.done()
    playing.cancel()
    assert all(program.is_running for program in programs.values())
    assert sequences == list(range(len(sequences)))
    assert epochs == {1}, "nothing was lost on the way"
