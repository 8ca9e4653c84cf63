"""The probe as a command, against servers with and without TLS."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.common.probe import main
from services.common.server import Server, running
from tests.services.support.certificates import Authority
from tests.services.support.echo import Echo, settings

WAIT_S = 60.0
Probe = Callable[..., Awaitable[tuple[int, str]]]
"""From arguments and variables to the exit status and stderr."""


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Probe:
    """Runs it on a thread of its own, in an environment that has no other setting of ours."""

    async def run(*arguments: str, **variables: str) -> tuple[int, str]:
        with monkeypatch.context() as environment:
            for name in [name for name in os.environ if name.startswith("CASCADE_")]:
                environment.delenv(name)
            for name, value in variables.items():
                environment.setenv(name, value)
            capsys.readouterr()
            status = await asyncio.to_thread(main, arguments)
        return status, capsys.readouterr().err

    return run


def variables(port: int, tls: Mapping[str, Path] | None = None) -> dict[str, str]:
    files = {f"CASCADE_TLS_{name.upper()}": str(path) for name, path in (tls or {}).items()}
    return {"CASCADE_GRPC_PORT": str(port), **files}


@asynccontextmanager
async def healthy(**sections: object) -> AsyncIterator[Server]:
    """A server that has looked at its conditions and serves."""
    async with running(settings(**sections), "echo", Echo().build()) as server:
        await server._health.look()
        yield server


async def test_a_server_that_serves_and_drains(probe: Probe) -> None:
    async with healthy() as server:
        assert await probe("--timeout", "30", **variables(server.port)) == (0, "")
        assert await probe("--timeout", "30", "--service", "live", **variables(server.port)) == (0, "")
        status, told = await probe("--timeout", "30", "--service", "none", **variables(server.port))
        assert status == 1
        assert "NOT_FOUND" in told
        await server._health.leave()
        status, told = await probe("--timeout", "30", **variables(server.port))
        assert (status, told) == (1, f"probe: 127.0.0.1:{server.port}: NOT_SERVING\n")


async def test_a_named_service(probe: Probe) -> None:
    def loading() -> str:
        return "loading weights"

    async with running(settings(), "echo", Echo().build(conditions=[loading])) as server:
        known = variables(server.port)
        assert await probe("--timeout", "30", "--service", "live", **known) == (0, "")
        status, told = await probe("--timeout", "30", **known)
        assert (status, told) == (1, f"probe: 127.0.0.1:{server.port}: NOT_SERVING\n")
        status, told = await probe("--timeout", "30", "--service", "lively", **known)
        assert status == 1
        assert "NOT_FOUND" in told


async def test_as_a_command() -> None:
    async with healthy() as server:
        command = [sys.executable, "-m", "services.common.probe", str(server.port), "--timeout", "30"]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, told = await asyncio.wait_for(process.communicate(), WAIT_S)
        assert (process.returncode, told) == (0, b"")


async def test_one_of_several_ports_is_enough_unless_the_settings_name_one(probe: Probe) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        silent = taken.getsockname()[1]
        async with healthy() as server:
            assert await probe(str(silent), str(server.port), "--timeout", "60") == (0, "")
            status, told = await probe(str(server.port), "--timeout", "30", CASCADE_GRPC_PORT=str(silent))
    assert status == 1
    assert f"127.0.0.1:{silent}: UNAVAILABLE" in told


@pytest.mark.parametrize("is_mutual", [False, True])
async def test_tls_by_the_servers_own_certificate(probe: Probe, tmp_path: Path, is_mutual: bool) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    tls = dict(zip(("certificate", "key"), authority.issue("server"), strict=True))
    other = dict(zip(("certificate", "key"), stranger.issue("server"), strict=True))
    if is_mutual:
        tls["ca"] = authority.path
    async with healthy(tls=tls) as server:
        assert await probe("--timeout", "30", **variables(server.port, tls)) == (0, "")
        status, told = await probe("--timeout", "5", **variables(server.port, other))
        assert status == 1
        assert "CERTIFICATE_VERIFY_FAILED" in told
        status, told = await probe("--timeout", "5", **variables(server.port))
        assert status == 1
        assert told.startswith(f"probe: 127.0.0.1:{server.port}: UNAVAILABLE")


async def test_a_server_that_never_answers_meets_the_deadline(probe: Probe) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        status, told = await probe(str(deaf.getsockname()[1]), "--timeout", "1")
    assert status == 1
    assert "DEADLINE_EXCEEDED" in told


async def test_settings_of_other_services_are_not_its_business(probe: Probe) -> None:
    async with healthy() as server:
        others = {
            "CASCADE_STAGE_NUM_RANKS": "5",
            "CASCADE_GATEWAY_STAGES": "a:1",
            "CASCADE_KUBERNETES_STAGE_SERVICE": "stage",
            "CASCADE_SCALER_WARM": "1",
        }
        assert await probe("--timeout", "30", **variables(server.port), **others) == (0, "")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "CASCADE_GRPC_PORT is not set"),
        ({"CASCADE_GRPC_PORT": "0"}, "CASCADE_GRPC_PORT is not set"),
        ({"CASCADE_GRPC_PORT": "many"}, "CASCADE_GRPC_PORT: Input should be a valid integer"),
        ({"CASCADE_GRPC_PROT": "1"}, "CASCADE_GRPC_PROT: no such setting"),
        ({"CASCADE_TLS_CERTIFICATE": "/no/such"}, "certificate"),
    ],
)
async def test_wrong_settings_name_themselves(probe: Probe, environment: dict[str, str], says: str) -> None:
    status, told = await probe(**environment)
    assert status == 1
    assert told.startswith("probe: ")
    assert says in told
    assert told.count("\n") == 1, "one line"


@pytest.mark.parametrize(
    "arguments", [["0"], ["x"], ["70000"], ["1", "--timeout", "0"], ["1", "--timeout", "nan"]]
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "invalid" in capsys.readouterr().err
