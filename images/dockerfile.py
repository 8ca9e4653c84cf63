"""The Dockerfile as stages with steps; whatever it holds that is not known here is an error."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from dockerfile_parse import DockerfileParser

KNOWN = frozenset({"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL"}) | frozenset(
    {"RUN", "STOPSIGNAL", "USER", "WORKDIR"}
)
FLAG = re.compile(r"--([\w-]+)=(\S+)\s+")


@dataclass(frozen=True)
class Step:
    """One instruction."""

    instruction: str
    flags: tuple[tuple[str, str], ...]
    """`--name=value` before what it is about."""
    value: str

    def words(self) -> list[str]:
        """The value as a list: the JSON form, or split as a shell does."""
        return json.loads(self.value) if self.value.startswith("[") else shlex.split(self.value)


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    name: str
    base: str
    """An image, or the name of an earlier stage."""
    steps: list[Step] = field(default_factory=list)

    def of(self, instruction: str) -> list[Step]:
        return [step for step in self.steps if step.instruction == instruction]


@dataclass(frozen=True)
class Dockerfile:
    """All of it, by name."""

    arguments: Mapping[str, str]
    """Those before the first FROM."""
    stages: Mapping[str, Stage]

    def lineage(self, name: str) -> Iterator[Stage]:
        """The stage and what it is built on, the oldest first."""
        stage = self.stages[name]
        if stage.base in self.stages:
            yield from self.lineage(stage.base)
        yield stage

    def last(self, name: str, instruction: str) -> Step | None:
        """The one that holds in the image."""
        found = [step for stage in self.lineage(name) for step in stage.of(instruction)]
        return found[-1] if found else None

    def environment(self, name: str) -> dict[str, str]:
        """What ENV sets in the image."""
        pairs = [step for stage in self.lineage(name) for step in stage.of("ENV")]
        return dict(pair.split("=", 1) for step in pairs for pair in step.words())


def read_dockerfile(path: Path) -> Dockerfile:
    """Raises ValueError for an instruction that is not known."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for item in DockerfileParser(path=str(path)).structure:
        instruction, value = item["instruction"].upper(), item["value"].strip()
        if instruction == "COMMENT":
            continue
        if instruction == "FROM":
            base, name = re.fullmatch(r"(\S+)\s+AS\s+(\S+)", value, re.IGNORECASE).groups()  # type: ignore[union-attr]
            stage = stages[name] = Stage(name, Template(base).substitute(arguments))
        elif instruction not in KNOWN:
            raise ValueError(f"{path}: {instruction} is not known here")
        elif stage is None:
            key, _, default = value.partition("=")
            arguments[key] = default
        else:
            stage.steps.append(read_step(instruction, value))
    return Dockerfile(arguments, stages)


def read_step(instruction: str, value: str) -> Step:
    flags = []
    while flag := FLAG.match(value):
        flags.append((flag[1], flag[2]))
        value = value[flag.end() :]
    return Step(instruction, tuple(flags), value)
