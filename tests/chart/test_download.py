"""The download Job behind a corporate proxy, without a cluster: its environment as rendered, `cascade-engine
download` as a process, and a proxy that looks into TLS with a certificate of its own authority.
"""

import contextlib
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart.rendering import ROOT, render
from tests.chart.switches import MODEL
from tests.services.support.certificates import Authority
from tests.unit.fake_hub import FakeHub, serving
from tests.unit.test_download import CARD, DEADLINE_S, REPOSITORIES

BUNDLE = "/etc/ssl/corporate/ca.crt"
SMALL = {**REPOSITORIES, "owner/name": {"models/base.pt": b"weights"}}


class Proxy(socketserver.ThreadingTCPServer):
    """Answers CONNECT, shows a certificate for whatever was asked for, and passes on to the hub."""

    daemon_threads = True

    def __init__(self, hub: FakeHub, authority: Authority) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.hub = hub
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(*authority.issue("hub", ["hub.example"]))
        self.asked: list[str] = []


class Tunnel(socketserver.StreamRequestHandler):
    """One CONNECT."""

    server: Proxy

    def handle(self) -> None:
        self.server.asked.append(self.rfile.readline().decode().split()[1])
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        port = int(self.server.hub.url.rpartition(":")[2])
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)) as hub,
            self.server.context.wrap_socket(self.connection, server_side=True) as client,
        ):
            threading.Thread(target=copy, args=(hub, client), daemon=True).start()
            copy(client, hub)


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with serving(FakeHub(SMALL)) as hub, Proxy(hub, Authority(tmp_path / "authority")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_it_goes_through_the_proxy_and_trusts_its_authority(proxy: Proxy, tmp_path: Path) -> None:
    """Whose file only the values name; `hub.example` is nowhere."""
    variables = [{"name": "HTTPS_PROXY", "value": "http://proxy"}, {"name": "SSL_CERT_FILE", "value": BUNDLE}]
    download = {"endpoint": "https://hub.example", "extraEnv": variables}
    (job,) = render(set={**MODEL, "weights": {"source": "download", "download": download}}).all("Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    card, folder = tmp_path / "tiny.toml", tmp_path / "weights"
    card.write_text(CARD)
    places = {"http://proxy": f"http://127.0.0.1:{proxy.server_address[1]}", "/tmp": str(tmp_path)}
    places |= {BUNDLE: str(tmp_path / "authority" / "ca.pem"), "/weights/.cache": str(folder / ".cache")}
    given = {each["name"]: places.get(each["value"], each["value"]) for each in container["env"]}
    assert container["command"][:2] == ["cascade-engine", "download"]
    command = [sys.executable, "-m", "cascade_core.commands.cli", "download", "--model", card, "--to", folder]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1", **given}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
    assert set(proxy.asked) == {"hub.example:443"}
    assert done.returncode == 0, done.stderr
    assert (folder / "name/models/base.pt").read_bytes() == b"weights"
