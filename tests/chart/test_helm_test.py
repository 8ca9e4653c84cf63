"""`helm test` without a cluster: the very command and environment of the rendered pod, run here as a process
against services on loopback. Only the paths of its mounts and the gateway's address are put in place.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import Workload, render
from tests.chart.switches import merge
from tests.services.support.certificates import Authority
from tests.services.support.ports import free_port
from tests.services.support.redis_support import DIE_WITH_US
from tests.services.support.system import ROOT, Program, clean_environment

START_S, RUN_S = 240, 240
"""Deadlines that only a hang reaches."""
KEY = "correct horse battery staple"
BLOCKS = 3
SECURED = {
    "tls": {"enabled": True, "issuerRef": {"name": "ca"}, "gatewayRequiresClientCertificates": True},
    "tests": {"apiKey": {"existingSecret": "test-key"}},
}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A stage and a decoder that keep their contracts and make no pictures, as a gateway is told of them."""
    folder = tmp_path_factory.mktemp("peers")
    addresses = {kind: f"127.0.0.1:{free_port()}" for kind in ("stage", "decoder")}
    with contextlib.ExitStack() as stack:
        for kind, address in addresses.items():
            command = [*DIE_WITH_US, sys.executable, "-m", f"tests.services.support.fake_{kind}"]
            log = stack.enter_context((folder / f"{kind}.log").open("w"))
            command += ["--port", address.rpartition(":")[2]]
            process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        for address in addresses.values():
            until_listening(address)
        yield {f"CASCADE_GATEWAY_{kind.upper()}S": address for kind, address in addresses.items()}


@contextlib.contextmanager
def gateway(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a real one."""
    program = Program("gateway", 0, folder, environment)
    program.start()
    try:
        until_listening(program.address)
        yield program.address
    finally:
        program.close()


@pytest.fixture(scope="module")
def plain(peers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gateway(tmp_path_factory.mktemp("plain"), peers) as address:
        yield address


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the gateway of a real `cascade up`."""
    folder = tmp_path_factory.mktemp("up")
    command = [*DIE_WITH_US, sys.executable, "-m", "cascade_client", "up", "--json", "--port", "0"]
    command += ["--http-port", "off"]
    command += ["--device", "cpu", "--log-dir", str(folder), "--ready-within", str(START_S)]
    up = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert up.stdout
        events = (json.loads(line) for line in up.stdout)
        yield next(event for event in events if event["event"] == "ready")["gateway"][0]
    finally:
        up.terminate()
        up.communicate(timeout=START_S)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(
    peers: dict[str, str], authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of a gateway with TLS, client certificates, API keys."""
    folder = tmp_path_factory.mktemp("secured")
    certificate, key = authority.issue("gateway")
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (folder / "keys.toml").write_text(f'[[keys]]\nname = "test"\ntenant = "test"\nsha256 = "{digest}"\n')
    environment = {
        "CASCADE_TLS_CERTIFICATE": str(certificate),
        "CASCADE_TLS_KEY": str(key),
        "CASCADE_TLS_CA": str(authority.path),
        "CASCADE_AUTH_MODES": "api_keys",
        "CASCADE_AUTH_KEYS_FILE": str(folder / "keys.toml"),
    }
    with gateway(folder, peers | environment) as address:
        yield f"localhost:{address.rpartition(':')[2]}"


def pod_of_the_test(values: dict[str, Any]) -> Workload:
    (pod,) = (each for each in render(set=values).workloads() if each.component == "test")
    return pod


def run_test(
    folder: Path, address: str, values: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """What the kubelet would run, with the files of its mounts below `folder`."""
    (container,) = pod_of_the_test(merge({"tests": {"blocks": BLOCKS}}, values or {})).containers
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    given = {each["name"]: each["value"] for each in container["env"]}
    assert re.fullmatch(r"demo-gateway\.video\.svc:\d+", given["CASCADE_CLIENT_GATEWAY"])
    given |= {"HOME": str(folder), "CASCADE_CLIENT_GATEWAY": address}

    def place(text: str) -> str:
        for path, name in mounts.items():
            text = text.replace(f"{path}/", f"{folder / name}/")
        return text

    for name in mounts.values():
        (folder / name).mkdir(exist_ok=True)
    assert container["command"][0] == "python"
    command = [*DIE_WITH_US, sys.executable, *container["command"][1:], *map(place, container["args"])]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **given}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=RUN_S)


def secrets_for(folder: Path, authority: Authority, key: str = KEY) -> None:
    """The Secrets that the secured pod mounts, under the names of its volumes."""
    certificate, private = authority.issue("client")
    for path, text in {
        "tls/ca.crt": authority.path.read_text(),
        "client/tls.crt": certificate.read_text(),
        "client/tls.key": private.read_text(),
        "key/api-key": key,
    }.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)


@pytest.mark.parametrize("kind", ["plain", pytest.param("whole", marks=pytest.mark.slow)])
def test_passes_where_segments_come(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    address = request.getfixturevalue(kind)
    done = run_test(tmp_path, address)
    assert done.returncode == 0, done.stderr
    assert f"({9 + 12 * (BLOCKS - 1)} pictures)" in done.stdout
    video = tmp_path / "tmp" / "video.mp4"
    assert video.stat().st_size > (1000 if kind == "whole" else 0)
    command = [sys.executable, "-m", "cascade_client", "sessions", "--gateway", address]
    listed = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)
    over = (" ended", " complete ")
    assert [line for line in listed.stdout.splitlines()[1:] if not any(word in line for word in over)] == []


def test_passes_with_tls_client_certificate_and_key(
    secured: str, authority: Authority, tmp_path: Path
) -> None:
    secrets_for(tmp_path, authority)
    done = run_test(tmp_path, secured, SECURED)
    assert done.returncode == 0, done.stderr


def test_fails_with_a_wrong_key(secured: str, authority: Authority, tmp_path: Path) -> None:
    secrets_for(tmp_path, authority, "wrong")
    done = run_test(tmp_path, secured, SECURED)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "status"), [("localhost", 0), ("elsewhere", 1)])
def test_a_pod_is_called_by_its_address_and_known_by_another_name(
    name: str, status: int, secured: str, authority: Authority, tmp_path: Path
) -> None:
    """As `cascade drain POD_IP:50061 --server-name` does, since no certificate has the addresses of pods."""
    secrets_for(tmp_path, authority)
    command = [sys.executable, "-m", "cascade_client", "sessions", "--ca", "tls/ca.crt"]
    command += ["--certificate", "client/tls.crt", "--certificate-key", "client/tls.key"]
    command += ["--api-key-file", "key/api-key", "--server-name", name]
    command += ["--gateway", secured.replace("localhost", "127.0.0.1")]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr


def test_fails_soon_where_no_gateway_is(tmp_path: Path) -> None:
    done = run_test(tmp_path, f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "no gateway" in done.stderr
    assert done.stderr.count("\n") == 1, "one sentence"


def test_ends_by_the_pods_deadline_where_sessions_only_wait() -> None:
    pod = pod_of_the_test({"tests": {"timeoutSeconds": 77}})
    assert pod.spec["activeDeadlineSeconds"] == 77
    assert pod.spec["restartPolicy"] == "Never"


def test_a_certificate_of_ones_own_can_be_shown() -> None:
    pod = pod_of_the_test(merge(SECURED, {"tests": {"clientCertificateSecret": "mine"}}))
    volumes = {each["name"]: each["secret"]["secretName"] for each in pod.spec["volumes"] if "secret" in each}
    assert volumes == {"tls": "demo-gateway-tls", "key": "test-key", "client": "mine"}


def until_listening(address: str) -> None:
    """Until somebody takes connections there."""
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens at {address}")
