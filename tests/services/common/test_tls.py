"""TLS and mTLS on the wire, with certificates that change while the server runs."""

from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest

from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.common.channel import open_channel
from services.common.server import running
from services.common.settings import ClientTlsSettings, GrpcSettings, ServerSettings
from tests.services.support.certificates import Authority
from tests.services.support.echo import Echo, say, settings

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


async def test_changed_files_hold_for_the_next_connection(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    current = files(old, "server")
    async with running(settings(tls=current), "echo", Echo().build()) as server:
        assert await greet(server.port, ClientTlsSettings(ca=old.path)) == "hello"
        current["certificate"].write_text("damaged")
        assert await greet(server.port, ClientTlsSettings(ca=old.path)) == "hello", "damaged: as before"
        for name, path in files(new, "server").items():
            path.replace(current[name])
        assert await greet(server.port, ClientTlsSettings(ca=new.path)) == "hello"
        assert await greet(server.port, ClientTlsSettings(ca=old.path)) == "UNAVAILABLE"


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
