"""The command `cascade` as a process: run to its end, or `up` over made-up services."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.paths import ROOT
from tests.services.support.redis_support import DIE_WITH_US

WAIT_S = 60.0


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CASCADE_")}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | changes


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cascade", *map(str, arguments)]


async def cascade(*arguments: object, cwd: Path | None = None, **changes: str) -> Done:
    """Run to the end; no command may ever show a traceback."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), cwd=cwd, env=environment(**changes),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert b"Traceback" not in err, err.decode()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


def until(condition: Callable[[], Any], what: str) -> Any:
    give_up_at = time.monotonic() + WAIT_S
    while time.monotonic() < give_up_at:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {WAIT_S:g} s for {what}")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def made_up_services(folder: Path) -> dict[str, str]:
    """The environment in which `cascade up` finds them, when it is called there."""
    for role in ("stage", "decoder", "gateway"):
        package = folder / "services" / role
        package.mkdir(parents=True, exist_ok=True)
        (folder / "services" / "__init__.py").touch()
        (package / "__init__.py").touch()
        # Its own folder comes first on the path and is then taken off, for the real `services.common`.
        (package / "__main__.py").write_text(
            "import sys\n"
            f"sys.path[:] = [each for each in sys.path if each not in ('', {str(folder)!r})]\n"
            "sys.modules.pop('services', None)\n"
            f"sys.modules.pop('services.{role}', None)\n"
            f"from tests.services.support.fake_gateway import main\nmain({role!r})\n"
        )
    return environment(PYTHONPATH=f"{folder}{os.pathsep}{ROOT}", CASCADE_CLIENT_GATEWAY="elsewhere:1")


class Up:
    """A running `cascade up --json` over made-up services."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.logs = folder / "logs"
        http = () if "--http-port" in arguments else ("--http-port", 0)
        self.process = subprocess.Popen(
            [*DIE_WITH_US, *command("up", "--json", "--port", 0, *http, "--log-dir", self.logs, *arguments)],
            cwd=folder,
            env=made_up_services(folder),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def event(self, kind: str) -> dict[str, Any]:
        """The next of this kind."""
        assert self.process.stdout
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == kind:
                return event
        assert self.process.stderr
        raise AssertionError(f"no {kind}: {self.process.stderr.read()}")

    def finish(self) -> Done:
        out, err = self.process.communicate(timeout=WAIT_S)
        assert "Traceback" not in err
        return Done(self.process.returncode, out, err)

    def log(self, name: str) -> dict[str, str]:
        """The settings that a made-up service was given."""
        lines = (self.logs / f"{name}.log").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@contextmanager
def running(folder: Path, *arguments: object) -> Iterator[Up]:
    up = Up(folder, *arguments)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.send_signal(signal.SIGTERM)
            try:
                up.process.wait(20)
            finally:
                up.process.kill()
