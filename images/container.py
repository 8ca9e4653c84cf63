"""Runs the processes of a built image as a container engine would: entry point, variables, user and health
command as the Dockerfile says; the folder that plays /tmp is the only one that may be written to."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from images.base import library_path
from images.build import ENVIRONMENT, PYTHON_PREFIX, Build

LISTEN_DEADLINE_S = 300.0
HEALTH_DEADLINE_S = 600.0
COMMAND_DEADLINE_S = 600.0
STOP_DEADLINE_S = 120.0
INTERVAL_S = 0.5
ON_LOOPBACK = {"CASCADE_GRPC_HOST": "127.0.0.1", "CASCADE_GRPC_PORT": "0"}


class CheckFailed(Exception):
    """An image does not do what it should; one sentence."""


class Container:
    """One process of an image, on a free port of this machine; use it as a context manager."""

    def __init__(
        self,
        build: Build,
        name: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`arguments`, where there are any, stand for CMD; `environment` for `docker run --env`."""
        self.name = name
        self._build = build
        self._user = user_of(build)
        self.folder = build.root / "run" / name
        """Plays /tmp, and is the working folder."""
        self.folder.mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(self.folder, *self._user)
        self._log = build.root / "run" / f"{name}.log"
        self._environment = {**self._image_environment(), **ON_LOOPBACK, **(environment or {})}
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Container":
        command = words(self._build, "ENTRYPOINT") + (list(self._arguments) or words(self._build, "CMD"))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._how())  # type: ignore[call-overload]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=STOP_DEADLINE_S)

    def port(self) -> int:
        """Where it listens. Raises CheckFailed."""
        deadline = time.monotonic() + LISTEN_DEADLINE_S
        while time.monotonic() < deadline:
            self._require_running()
            for line in self._log.read_text().splitlines():
                if line.startswith("{") and line.endswith("}") and '"listening"' in line:
                    return int(json.loads(line)["port"])
            time.sleep(INTERVAL_S)
        raise CheckFailed(f"{self.name} does not listen:\n{self._log.read_text()}")

    def wait_until_healthy(self) -> None:
        """By the image's own health command. Raises CheckFailed."""
        health = self._build.dockerfile.last(self._build.target, "HEALTHCHECK")
        assert health
        command = json.loads(health.value.removeprefix("CMD"))
        port = {"CASCADE_GRPC_PORT": str(self.port())}
        deadline = time.monotonic() + HEALTH_DEADLINE_S
        while (answer := self.execute(command, port)).returncode:
            self._require_running()
            if time.monotonic() > deadline:
                raise CheckFailed(f"{self.name} is not healthy: {answer.stderr}\n{self._log.read_text()}")
            time.sleep(INTERVAL_S)

    def execute(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Another command in it, as `docker exec`."""
        how = self._how(environment)
        return subprocess.run(  # type: ignore[no-any-return, call-overload]
            command, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, **how
        )

    def stop(self) -> None:
        """By the image's stop signal. Raises CheckFailed unless it then ends by itself, with 0."""
        assert self._process
        step = self._build.dockerfile.last(self._build.target, "STOPSIGNAL")
        self._process.send_signal(signal.Signals[step.value] if step else signal.SIGTERM)
        try:
            status = self._process.wait(timeout=STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise CheckFailed(f"{self.name} does not stop:\n{self._log.read_text()}") from None
        if status:
            raise CheckFailed(f"{self.name} ended with {status}:\n{self._log.read_text()}")

    def _require_running(self) -> None:
        assert self._process
        if self._process.poll() is not None:
            raise CheckFailed(f"{self.name} ended with {self._process.returncode}:\n{self._log.read_text()}")

    def _image_environment(self) -> dict[str, str]:
        image = self._build.dockerfile.environment(self._build.target)
        here = {name: self._build.translate(value) for name, value in image.items()}
        scratch = {name: str(self.folder) for name, value in image.items() if value == "/tmp"}
        return {
            **library_path(self._build.path(PYTHON_PREFIX)),
            **here,
            **scratch,
            "TMPDIR": str(self.folder),
        }

    def _how(self, environment: Mapping[str, str] | None = None) -> dict[str, object]:
        how: dict[str, object] = {
            "cwd": self.folder,
            "env": {**self._environment, **(environment or {})},
            "stdin": subprocess.DEVNULL,
        }
        if os.geteuid() == 0:  # else it runs as whoever runs the check
            how |= {"user": self._user[0], "group": self._user[1], "extra_groups": ()}
        return how


def words(build: Build, instruction: str) -> list[str]:
    """The command line of ENTRYPOINT or CMD, with the programs of the build."""
    step = build.dockerfile.last(build.target, instruction)
    found = step.words() if step else []
    return [str(build.path(ENVIRONMENT) / "bin" / word) if word == "python" else word for word in found]


def user_of(build: Build) -> tuple[int, int]:
    step = build.dockerfile.last(build.target, "USER")
    assert step
    user, group = step.value.split(":")
    return int(user), int(group)


def written(folders: Sequence[Path]) -> dict[Path, int]:
    """When each file below them was last changed, in ns."""
    paths = (Path(top) / name for folder in folders for top, _, names in os.walk(folder) for name in names)
    return {path: path.lstat().st_mtime_ns for path in paths}
