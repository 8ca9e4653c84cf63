"""The ports at which `cascade up` serves HTTP."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cascade_client.commands.arguments import parse_http_port
from cascade_client.console import CommandFailed
from cascade_client.local.plan import Process, UpOptions, base_environment, make_plan
from cascade_client.local.ports import HTTP_VARIABLE, LOOPBACK, HttpPort, free_ports, is_free, wanted_http


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield int(holder.getsockname()[1])


def gateways(folder: Path, http: HttpPort, num_gateways: int = 1) -> list[Process]:
    """Of the plan."""
    options = UpOptions(
        port=0, http=http, num_gateways=num_gateways, redis="redis://127.0.0.1:1/0", log_dir=folder
    )
    return [process for process in make_plan(options) if process.role == "gateway"]


def test_each_gateway_has_the_next_one(tmp_path: Path) -> None:
    (first,) = free_ports(1)
    found = gateways(tmp_path, HttpPort(first, "--http-port"))
    assert [each.environment[HTTP_VARIABLE] for each in found] == [str(first)]
    assert [each.page for each in found] == [f"http://localhost:{first}"]
    several = gateways(tmp_path, HttpPort(0, "--http-port"), 3)
    numbers = {each.port for each in several} | {int(each.environment[HTTP_VARIABLE]) for each in several}
    assert len(numbers) == 6


def test_only_names_of_this_machine_lead_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (gateway,) = gateways(tmp_path, HttpPort(0, "--http-port"))
    assert gateway.environment["CASCADE_HTTP_HOSTS"] == "localhost,127.0.0.1,[::1]"
    monkeypatch.setenv("CASCADE_HTTP_HOST", "0.0.0.0")  # somebody wants to be reached from elsewhere
    (gateway,) = gateways(tmp_path, HttpPort(0, "--http-port"))
    assert "CASCADE_HTTP_HOSTS" not in gateway.environment


def test_off_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HTTP_VARIABLE, "8080")
    (gateway,) = gateways(tmp_path, HttpPort(None, "--http-port"))
    assert gateway.page is None
    assert HTTP_VARIABLE not in {**base_environment(), **gateway.environment}


def test_a_port_that_nobody_asked_for_gives_way(tmp_path: Path, taken: int) -> None:
    (gateway,) = gateways(tmp_path, HttpPort(taken))
    assert gateway.page
    assert gateway.page != f"http://localhost:{taken}"


def test_the_port_of_grpc_is_taken(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (gateway,) = [
        each for each in make_plan(UpOptions(port=port, http=HttpPort(port))) if each.role == "gateway"
    ]
    assert gateway.port == port
    assert gateway.page
    assert gateway.page != f"http://localhost:{port}"
    with pytest.raises(CommandFailed, match=f"--http-port: port {port} is taken"):
        make_plan(UpOptions(port=port, http=HttpPort(port, "--http-port")))


@pytest.mark.parametrize("source", ["--http-port", HTTP_VARIABLE])
def test_a_port_that_was_asked_for_does_not(tmp_path: Path, taken: int, source: str) -> None:
    with pytest.raises(CommandFailed, match=f"{source}: port {taken} is taken"):
        gateways(tmp_path, HttpPort(taken, source))


def test_the_option_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HTTP_VARIABLE, raising=False)
    assert wanted_http(None) == HttpPort(8080)
    monkeypatch.setenv(HTTP_VARIABLE, "81")
    assert wanted_http(None) == HttpPort(81, HTTP_VARIABLE)
    assert wanted_http(parse_http_port("82")).number == 82
    assert wanted_http(parse_http_port("off")).number is None
    for wrong in ("65536", "-1", "web"):
        monkeypatch.setenv(HTTP_VARIABLE, wrong)
        with pytest.raises(CommandFailed, match=f"{HTTP_VARIABLE}: '{wrong}' is not a port"):
            wanted_http(None)


def test_people_call_localhost_whichever_address_it_is(tmp_path: Path) -> None:
    (gateway,) = gateways(tmp_path, HttpPort(0, "--http-port"))
    assert gateway.environment["CASCADE_GRPC_HOST"] == "localhost"
    assert gateway.environment["CASCADE_HTTP_HOST"] == "localhost"


def test_a_port_that_is_taken_at_one_address_of_localhost_is_taken() -> None:
    for family, host in LOOPBACK:
        try:
            holder = socket.create_server((host, 0), family=family)
        except OSError:
            continue  # this machine lacks it
        with holder:
            assert not is_free(holder.getsockname()[1])
