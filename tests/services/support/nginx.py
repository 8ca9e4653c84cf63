"""A real nginx in front of a server, in its own folder; stopped by its process id."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.services.support.ports import free_port
from tests.services.support.redis_support import DIE_WITH_US

BINARY = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
needs_nginx = pytest.mark.skipif(BINARY is None, reason="needs nginx")
DEADLINE_S = 20.0
CONFIG = """\
pid {folder}/pid;
error_log {folder}/log info;
daemon off;
worker_processes 1;
worker_shutdown_timeout 200ms;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
  server {{
    listen 127.0.0.1:{port} {kind};
    {server}
  }}
}}
"""
LOCATION = """
    location {path} {{
      proxy_pass {backend};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      {location}
    }}
"""


class Nginx:
    """At a port that it keeps over restarts."""

    def __init__(self, server: str, kind: str = "") -> None:
        """`server`: lines of its configuration. `kind`: such as `ssl http2`."""
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="nginx-"))
        config = CONFIG.format(folder=self.folder, port=self.port, kind=kind, server=server)
        (self.folder / "conf").write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Nginx":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """It writes its process id when it listens."""
        options = ("-p", str(self.folder), "-c", f"{self.folder}/conf", "-e", f"{self.folder}/log")
        self._process = subprocess.Popen([*DIE_WITH_US, str(BINARY), *options])
        self._until((self.folder / "pid").exists)

    def reload(self) -> None:
        """A new worker takes what comes; the old one has 200 ms for what it has, and is gone then."""
        assert self._process
        number = self._log().count("exited with code")
        self._process.send_signal(signal.SIGHUP)
        self._until(lambda: self._log().count("exited with code") > number)

    def stop(self) -> None:
        """At once, with all connections."""
        if self._process:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
        self._process = None

    def _log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def _until(self, condition: Callable[[], bool]) -> None:
        assert self._process
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert self._process.poll() is None, self._log()
            assert time.monotonic() < deadline, self._log()
            time.sleep(0.01)


@contextmanager
def nginx(backend: str, location: str = "", server: str = "", path: str = "/") -> Iterator[int]:
    """Its port at 127.0.0.1. `location`, `server`: more lines of these. `path`: of the location."""
    assert BINARY
    lines = LOCATION.format(path=path, backend=backend, location=location)
    with Nginx(server + lines) as running:
        yield running.port
