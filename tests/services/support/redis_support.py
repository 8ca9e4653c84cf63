"""A real redis-server in its own folder, on a Unix socket; stopped by its process id."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.services.support.ports import free_port

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(BINARY is None, reason="needs redis-server or valkey-server")
START_DEADLINE_S = 30.0
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
"""So that a test run that is killed leaves nothing behind. Not by Popen's `preexec_fn`: it makes gRPC's fork
handlers run, which crash now and then while calls are under way."""


class RedisServer:
    """Append-only by default, so that it comes back from `kill` with what it had acknowledged."""

    def __init__(
        self, *, cluster: bool = False, persistent: bool = True, tcp: bool = False, **options: str
    ) -> None:
        """`tcp`: `address` is reached as well. `options`: of redis.conf, such as `tls_port`."""
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))  # short: a socket's path has 107 bytes at most
        self.url = f"unix://{self.folder}/s"
        self._options = {
            "port": "0",
            "bind": "127.0.0.1",
            "unixsocket": f"{self.folder}/s",
            "dir": str(self.folder),
            "save": "",
            "daemonize": "no",
            "appendonly": "yes" if persistent else "no",
            "appendfsync": "always" if persistent else "no",
        }
        if cluster or tcp:
            self._options["port"] = str(free_port())
        self._options |= {name.replace("_", "-"): value for name, value in options.items()}
        self.address = f"127.0.0.1:{self._options['port']}"
        if cluster:
            self._options["cluster-enabled"] = "yes"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        if cluster:
            self.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            self._until("cluster_state:ok", "CLUSTER", "INFO")

    def start(self) -> None:
        assert BINARY
        with (self.folder / "log").open("ab") as log:
            command = [*DIE_WITH_US, BINARY, *self.arguments()]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._until("PONG", "PING")

    def arguments(self) -> list[str]:
        return [part for name, value in self._options.items() for part in (f"--{name}", value)]

    def command(self, *words: str) -> str:
        """One command in the inline protocol, over a fresh connection; its raw answer."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(5.0)
            line.connect(f"{self.folder}/s")
            if password := self._options.get("requirepass"):
                line.sendall(f"AUTH {password}\r\n".encode())
                line.recv(65536)
            line.sendall(" ".join(words).encode() + b"\r\n")
            return line.recv(65536).decode(errors="replace")

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process:
            self._process.kill()
            self._process.wait(10.0)
            self._process = None
            (self.folder / "s").unlink(missing_ok=True)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _until(self, expected: str, *words: str) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        answer = ""
        while time.monotonic() < deadline:
            assert self._process
            if self._process.poll() is not None:
                break
            try:
                answer = self.command(*words)
            except OSError as error:
                answer = str(error)
            if expected in answer:
                return
            time.sleep(0.02)
        log = (self.folder / "log").read_text(errors="replace")[-2000:]
        self.close()
        raise AssertionError(f"redis-server did not start: {answer}\n{log}")


class SentinelServer(RedisServer):
    """Watches one primary alone, so its own vote is enough."""

    def __init__(self, name: str, primary: str, password: str, **options: str) -> None:
        """`password`: of the primary. `options`: of its own configuration."""
        self._lines = [
            f"sentinel monitor {name} {primary.replace(':', ' ')} 1",
            f"sentinel auth-pass {name} {password}",
            f"sentinel down-after-milliseconds {name} 300",
            f"sentinel failover-timeout {name} 2000",
        ]
        super().__init__(persistent=False, tcp=True, **options)

    def knows_replica(self) -> bool:
        """One that is linked to its primary."""
        found = self.command("SENTINEL", "REPLICAS", "main")
        return "master-link-status" in found and "\r\nok\r\n" in found

    def arguments(self) -> list[str]:
        refused = ("save", "daemonize", "appendonly", "appendfsync")
        lines = [f"{name} {value}" for name, value in self._options.items() if name not in refused]
        lines += self._lines
        path = self.folder / "sentinel.conf"
        path.write_text("\n".join(lines))
        return [str(path), "--sentinel"]
