"""Runs the steps of one target of the Dockerfile, its own command lines, in a folder instead of an image.

Absolute paths of the Dockerfile become folders below the root of the build: those that stages copy from each
other (the environment, the wheel) are one folder for all stages, working folders are one for each stage. The
base image is a copy of this machine's Python (`base.py`).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from images.base import copy_python, library_path
from images.dockerfile import Dockerfile, Stage, Step

PYTHON_PREFIX = "/usr/local"
ENVIRONMENT = "/opt/cascade"
SHARED = (ENVIRONMENT, "/wheel", PYTHON_PREFIX)
"""One folder for all stages of a target."""
PASSED = re.compile(r"PIP_.*|(HTTPS?|NO|ALL)_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE", re.IGNORECASE)
"""Variables of this machine that play what the builder hands in: proxies, and pip's secret configuration."""
NOT_HERE = ("compiler",)
"""Steps of install.sh that would change this machine."""
STEP_DEADLINE_S = 3600.0
"""For one RUN; torch with CUDA is a download of gigabytes."""


class Build:
    """One target, below `root`, from a copy of the build context."""

    def __init__(self, dockerfile: Dockerfile, target: str, context: Path, root: Path) -> None:
        self.dockerfile = dockerfile
        self.target = target
        self.root = root
        self.left_out: list[str] = []
        """Command lines that were not run."""
        self._context = context
        self._done: set[str] = set()

    def run(self, arguments: Mapping[str, str]) -> None:
        """All stages that the target needs; `arguments` as `docker build --build-arg`. Raises
        CalledProcessError with the output of the step that failed."""
        (self.root / "home").mkdir(parents=True)
        copy_python(self.root / PYTHON_PREFIX.lstrip("/"))
        self._stage(self.target, arguments)

    def path(self, path: str) -> Path:
        """Where a path of the image is."""
        return self.root / path.lstrip("/")

    def translate(self, text: str, mounts: Mapping[str, Path] | None = None) -> str:
        """The same with each path of the image that the build made, or that is mounted, as it is here."""
        places = {path: self.path(path) for path in SHARED} | dict(mounts or {})
        pattern = "|".join(re.escape(path) for path in places)
        return re.sub(rf"(?<![\w.-])({pattern})(?![\w-])", lambda found: str(places[found[0]]), text)

    def _stage(self, name: str, arguments: Mapping[str, str]) -> None:
        if name in self._done:
            return
        self._done.add(name)
        stage = self.dockerfile.stages[name]
        # Before its own base is finished, which is the same Python for all stages here.
        for origin in [dict(step.flags).get("from") for step in stage.of("COPY")]:
            if origin:
                self._stage(origin, arguments)
        folder = self.root / "stages" / name
        if stage.base in self.dockerfile.stages:
            self._stage(stage.base, arguments)
            shutil.copytree(self.root / "stages" / stage.base, folder, symlinks=True)
        else:
            folder.mkdir(parents=True)
        known: dict[str, str] = {}
        for step in stage.steps:
            if step.instruction == "ARG":
                key, _, default = step.value.partition("=")
                known[key] = arguments.get(key, default)
            elif step.instruction == "COPY":
                self._copy(stage, step)
            elif step.instruction == "RUN":
                self._run(stage, step, known)

    def _work_folder(self, stage: Stage) -> Path:
        step = self.dockerfile.last(stage.name, "WORKDIR")
        folder = self.root / "stages" / stage.name / (step.value.lstrip("/") if step else "")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _copy(self, stage: Stage, step: Step) -> None:
        *sources, target = step.words()
        if "from" in dict(step.flags):
            assert sources == [target], f"{target}: one folder for all stages, so one path"
            assert self.path(target).is_dir(), f"nothing made {target}"
            return
        for source in sources:
            inside = self._context / source
            to = self._work_folder(stage) / target
            if inside.is_dir():
                shutil.copytree(inside, to, dirs_exist_ok=True)
            else:
                into_folder = target.endswith("/") or len(sources) > 1
                to = to / inside.name if into_folder else to
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(inside, to)

    def _run(self, stage: Stage, step: Step, known: Mapping[str, str]) -> None:
        if any(word in NOT_HERE for word in step.words()):
            self.left_out.append(step.value)
            return
        command = self.translate(step.value, {path: self._context / source for path, source in binds(step)})
        prefix = self.path(PYTHON_PREFIX)
        environment = {
            **{name: value for name, value in os.environ.items() if PASSED.fullmatch(name)},
            **library_path(prefix),
            "PATH": f"{prefix / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.root / "home"),
            **known,
        }
        subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self._work_folder(stage),
            env=environment,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_DEADLINE_S,
        )


def binds(step: Step) -> Iterator[tuple[str, str]]:
    """Target and source of what a RUN mounts from the context."""
    for name, value in step.flags:
        mount = dict(part.partition("=")[::2] for part in value.split(","))
        if name == "mount" and mount["type"] == "bind":
            yield mount["target"], mount["source"]
