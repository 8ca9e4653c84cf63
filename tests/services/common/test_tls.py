"""TLS and mTLS on the wire, with certificates that change while the server runs."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.common import grpc_port
from services.common.channel import open_channel
from services.common.server import running
from services.common.settings import ClientTlsSettings, GrpcSettings, ServerSettings
from tests.services.support.bad_handshakes import kinds, many
from tests.services.support.certificates import Authority
from tests.services.support.echo import Echo, chat, exchange, say, settings
from tests.services.support.ports import free_port
from tests.services.support.system import ROOT, clean_environment

TIMEOUT_S = 10.0


async def greet(port: int, tls: ClientTlsSettings | None) -> str:
    """Over a connection of its own; the code's name where it fails."""
    async with open_channel(f"localhost:{port}", GrpcSettings(), tls) as channel:
        try:
            return await say(channel, "hello", timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return error.code().name


def files(authority: Authority, name: str) -> dict[str, Path]:
    certificate, key = authority.issue(name)
    return {"certificate": certificate, "key": key}


async def test_tls(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    async with running(settings(tls=files(authority, "server")), "echo", Echo().build()) as server:
        assert await greet(server.port, ClientTlsSettings(ca=authority.path)) == "hello"
        assert await greet(server.port, ClientTlsSettings(ca=stranger.path)) == "UNAVAILABLE"
        assert await greet(server.port, None) == "UNAVAILABLE"


async def test_mutual_tls(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    tls = {**files(authority, "server"), "ca": authority.path}
    async with running(settings(tls=tls), "echo", Echo().build()) as server:
        known = make(ClientTlsSettings, {**files(authority, "client"), "ca": authority.path})
        unknown = make(ClientTlsSettings, {**files(stranger, "client"), "ca": authority.path})
        assert await greet(server.port, known) == "hello"
        assert await greet(server.port, unknown) == "UNAVAILABLE"
        assert await greet(server.port, ClientTlsSettings(ca=authority.path)) == "UNAVAILABLE"


async def test_a_server_may_have_another_name_than_its_address(tmp_path: Path) -> None:
    """As pods have, which are called by IP."""
    authority = Authority(tmp_path / "ours")
    certificate, key = authority.issue("pod", hosts=["cascade-peer"])
    tls = {"certificate": certificate, "key": key}
    async with running(settings(tls=tls), "echo", Echo().build()) as server:
        expected = ClientTlsSettings(ca=authority.path, server_name="cascade-peer")
        assert await greet(server.port, expected) == "hello"
        other = ClientTlsSettings(ca=authority.path, server_name="somebody-else")
        assert await greet(server.port, other) == "UNAVAILABLE"
        assert await greet(server.port, ClientTlsSettings(ca=authority.path)) == "UNAVAILABLE"


async def until_greeted(port: int, tls: ClientTlsSettings) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while await greet(port, tls) != "hello":  # noqa: ASYNC110 (the files hold at another time)
            await asyncio.sleep(0.02)


async def test_changed_files_hold_for_the_next_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that are open go on, however often the files change, and end like all others."""
    monkeypatch.setattr(grpc_port, "CHECK_S", 0.02)
    old = Authority(tmp_path / "old")
    current, echo = files(old, "server"), Echo()
    async with (
        running(settings(tls=current), "echo", echo.build()) as server,
        open_channel(f"localhost:{server.port}", GrpcSettings(), ClientTlsSettings(ca=old.path)) as channel,
    ):
        stream = chat(channel)
        assert await exchange(stream, "one") == "one"
        current["certificate"].write_text("damaged")
        await asyncio.sleep(0.1)
        assert await greet(server.port, ClientTlsSettings(ca=old.path)) == "hello", "damaged: as before"
        for number in range(3):
            new = Authority(tmp_path / f"new-{number}")
            for name, path in files(new, "server").items():
                path.replace(current[name])
            await until_greeted(server.port, ClientTlsSettings(ca=new.path))
            assert await greet(server.port, ClientTlsSettings(ca=old.path)) == "UNAVAILABLE"
            assert await exchange(stream, f"still {number}") == f"still {number}"
        await exchange(stream, "bye")
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_renewal_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files changed once; nothing tells of them a second time."""
    monkeypatch.setattr(grpc_port, "CHECK_S", 0.02)
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    current = files(old, "server")
    async with running(settings(tls=current), "echo", Echo().build()) as server:
        make_server, num_tries = server._port._make, 0

        def fail_at_first(options: grpc_port.Options) -> grpc.aio.Server:
            nonlocal num_tries
            num_tries += 1
            if num_tries < 3:
                raise RuntimeError("no memory, say")
            return make_server(options)

        monkeypatch.setattr(server._port, "_make", fail_at_first)
        for name, path in files(new, "server").items():
            path.replace(current[name])
        await until_greeted(server.port, ClientTlsSettings(ca=new.path))
        assert num_tries == 3


async def test_a_second_process_on_the_port_is_told(tmp_path: Path) -> None:
    """Though the port can be shared, as it is for a moment when files change."""
    tls = files(Authority(tmp_path / "ours"), "server")
    async with running(settings(tls=tls), "echo", Echo().build()) as server:
        taken = settings(tls=tls, grpc={"port": server.port})
        with pytest.raises(InvalidConfig, match=r"grpc\.port: .* is taken"):
            async with running(taken, "echo", Echo().build()):
                pass


@asynccontextmanager
async def echo_process(folder: Path, trusted: ClientTlsSettings, **environment: str) -> AsyncIterator[int]:
    """Its port; it must live to the end."""
    port = free_port()
    with (folder / "echo.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.services.support.echo_process"),
            env=clean_environment() | {"CASCADE_GRPC_PORT": str(port)} | environment,
            cwd=ROOT,
            stderr=log,
        )
    try:
        await until_greeted(port, trusted)
        yield port
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [1000, pytest.param(5000, marks=pytest.mark.slow)])
async def test_handshakes_that_fail_harm_nobody(tmp_path: Path, number: int) -> None:
    """A service of its own process, a stream that is open meanwhile, and a renewal after it all."""
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    current, trusted = files(authority, "server"), ClientTlsSettings(ca=authority.path)
    environment = {f"CASCADE_TLS_{name.upper()}": str(path) for name, path in current.items()}
    async with (
        echo_process(tmp_path, trusted, CASCADE_GRPC_HANDSHAKE_TIMEOUT_S="1", **environment) as port,
        open_channel(f"localhost:{port}", GrpcSettings(), trusted) as channel,
    ):
        stream = chat(channel, timeout=None)
        for kind, connect in kinds(stranger.path).items():
            await many(connect, port, number)
            assert await exchange(stream, kind) == kind
            assert await greet(port, trusted) == "hello"
        for name, path in files(stranger, "server").items():
            path.replace(current[name])
        await until_greeted(port, ClientTlsSettings(ca=stranger.path))
        assert await exchange(stream, "renewed") == "renewed"
        await exchange(stream, "bye")


@pytest.mark.parametrize(
    ("tls", "says"),
    [
        ({"certificate": "a.pem"}, "come together"),
        ({"certificate": "/no/a.pem", "key": "/no/a.key"}, "no file /no/a.pem"),
    ],
)
def test_wrong_files_are_fatal(tls: Mapping[str, str], says: str) -> None:
    with pytest.raises(InvalidConfig, match=says):
        make(ServerSettings, {"tls": tls})


async def test_a_file_that_is_no_pem_is_fatal(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("not pem")
    with pytest.raises(InvalidConfig, match="is no PEM file"):
        async with running(settings(tls={"certificate": path, "key": path}), "echo", Echo().build()):
            pass
