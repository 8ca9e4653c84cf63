"""A real nginx in front of a server, in its own folder; stopped by its process id."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.services.support.ports import free_port
from tests.services.support.redis_support import DIE_WITH_US

BINARY = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
needs_nginx = pytest.mark.skipif(BINARY is None, reason="needs nginx: Debian's package nginx-light")
START_DEADLINE_S = 20.0
CONFIG = """\
pid {folder}/pid;
error_log {folder}/log;
daemon off;
master_process off;
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
    listen 127.0.0.1:{port};
    {server}
    location / {{
      proxy_pass {backend};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      {location}
    }}
  }}
}}
"""


@contextmanager
def nginx(backend: str, location: str = "", server: str = "") -> Iterator[int]:
    """Its port at 127.0.0.1. `location`, `server`: more lines of its configuration."""
    assert BINARY
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="nginx-") as name:
        folder = Path(name)
        (folder / "conf").write_text(
            CONFIG.format(folder=folder, port=port, backend=backend, location=location, server=server)
        )
        command = [*DIE_WITH_US, BINARY, "-p", name, "-c", f"{name}/conf", "-e", f"{name}/log"]
        process = subprocess.Popen(command)
        try:
            until_started(folder, process)
            yield port
        finally:
            process.terminate()
            process.wait()


def until_started(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """It writes its process id when it listens."""
    deadline = time.monotonic() + START_DEADLINE_S
    while not (folder / "pid").exists():
        log = folder / "log"
        assert process.poll() is None, log.read_text() if log.exists() else "nginx does not start"
        assert time.monotonic() < deadline, "nginx does not start"
        time.sleep(0.01)
