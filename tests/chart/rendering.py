"""Runs the real helm over the chart and reads what it prints; each rendering is made once (`kept.py`)."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.chart.kept import Printed, kept
from tests.paths import ROOT

CHART = ROOT / "helm" / "cascade"
HELM = Path(sys.prefix) / "bin" / "helm"
RELEASE = "demo"
NAMESPACE = "video"
DEADLINE_S = 60

Document = dict[str, Any]
Values = Mapping[str, Any]
POD_PATHS = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where a kind keeps the pod it makes."""


class UniqueKeys(yaml.CSafeLoader):
    """Refuses a key that stands twice, as the API server does."""


def unique_mapping(loader: UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise ValueError(f"twice in one mapping: {', '.join(map(str, twice))}{node.start_mark}")
    return yaml.CSafeLoader.construct_mapping(loader, node, deep=True)


UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, unique_mapping)


@dataclass(frozen=True)
class Workload:
    """A document that makes pods."""

    document: Document
    pod: Document
    """The pod's `metadata` and `spec`."""

    @property
    def name(self) -> str:
        return self.document["metadata"]["name"]

    @property
    def labels(self) -> dict[str, str]:
        """Of its pods; the last one is given by the controller."""
        labels = self.pod["metadata"].get("labels") or {}
        own = {"statefulset.kubernetes.io/pod-name": f"{self.name}-0"}
        return labels | (own if self.document["kind"] == "StatefulSet" else {})

    @property
    def spec(self) -> Document:
        """Of its pods."""
        return self.pod["spec"]

    @property
    def component(self) -> str:
        return self.labels.get("app.kubernetes.io/component") or self.labels["app.kubernetes.io/name"]

    @property
    def claims(self) -> list[str]:
        """Volumes that a StatefulSet makes."""
        templates = self.document["spec"].get("volumeClaimTemplates") or ()
        return [each["metadata"]["name"] for each in templates]

    @property
    def containers(self) -> list[Document]:
        """Init containers first."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def main(self) -> Document:
        """The container named after the component, or the only one."""
        own = [each for each in self.spec["containers"] if each["name"] == self.component]
        return own[0] if own else self.spec["containers"][0]


@dataclass(frozen=True)
class Rendering:
    """What `helm install` would send. Not to be changed: tests share it."""

    documents: tuple[Document, ...]

    def all(self, *kinds: str) -> list[Document]:
        return [each for each in self.documents if each["kind"] in kinds]

    def one(self, kind: str, name: str) -> Document:
        (found,) = (each for each in self.all(kind) if each["metadata"]["name"] == name)
        return found

    def of(self, component: str, *kinds: str) -> list[Document]:
        """Documents that carry the component's label."""
        wanted = {"app.kubernetes.io/component": component}
        return [each for each in self.all(*kinds) if wanted.items() <= labels_of(each).items()]

    def workloads(self) -> list[Workload]:
        """All that make pods, test hooks included."""
        return [
            Workload(each, functools.reduce(dict.__getitem__, POD_PATHS[each["kind"]], each))
            for each in self.documents
            if each["kind"] in POD_PATHS
        ]

    def workload(self, component: str) -> Workload:
        """The Deployment of stage, decoder or gateway."""
        (found,) = (each for each in self.deployments() if each.component == component)
        return found

    def deployments(self) -> list[Workload]:
        return [each for each in self.workloads() if each.document["kind"] == "Deployment"]


def labels_of(document: Document) -> dict[str, str]:
    return document["metadata"].get("labels") or {}


def render(
    *files: str,
    set: Values | None = None,
    kube_version: str | None = None,
    release: str = RELEASE,
    upgrade: bool = False,
) -> Rendering:
    """`files`: values files of the chart; `set`: values over them. Fails the test with helm's text."""
    done = template(files, json.dumps(set or {}, sort_keys=True), kube_version, release, upgrade)
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def refusal(*files: str, set: Values | None = None, kube_version: str | None = None) -> str:
    """The text by which helm refuses these values; fails the test where it takes them."""
    done = template(files, json.dumps(set or {}, sort_keys=True), kube_version, RELEASE, False)
    assert done.returncode != 0, f"helm took {set} over {files or 'the defaults'}"
    return done.stderr


def notes(*files: str, set: Values | None = None) -> str:
    """What helm tells after an installation. Fails the test with helm's text."""
    command = ["install", RELEASE, "--dry-run=client", *flags_of(files)]
    done = on_chart(tuple(command), json.dumps(set or {}, sort_keys=True))
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def template(
    files: tuple[str, ...], values: str, kube_version: str | None, release: str, upgrade: bool
) -> Printed:
    version = ["--kube-version", kube_version] if kube_version else []
    command = ["template", release, *flags_of(files), *version, *(["--is-upgrade"] if upgrade else [])]
    return on_chart(tuple(command), values)


def flags_of(files: Sequence[str]) -> list[str]:
    """For the chart's own values files, and more values on stdin."""
    paths = [part for file in files for part in ("--values", str(CHART / file))]
    return [str(CHART), "--namespace", NAMESPACE, *paths, "--values", "-"]


@functools.cache
def on_chart(command: tuple[str, ...], values: str) -> Printed:
    return kept(lambda: helm(*command, stdin=values), CHART, HELM, [*command, values])


def helm(
    *arguments: str, stdin: str = "", kubeconfig: Path | str = os.devnull
) -> subprocess.CompletedProcess[str]:
    """Real helm, away from the machine's clusters, plugins and caches."""
    own = {"KUBECONFIG": str(kubeconfig), "HOME": helm_home().name, "GOGC": "off"}  # a fifth faster
    environment = {"PATH": os.environ.get("PATH", os.defpath), **own}
    return subprocess.run(
        [HELM, *arguments], input=stdin, capture_output=True, text=True, timeout=DEADLINE_S, env=environment
    )


@functools.cache
def helm_home() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="helm-home-")


@functools.cache
def parse(text: str) -> Rendering:
    return Rendering(tuple(each for each in yaml.load_all(text, UniqueKeys) if each))


@functools.cache
def chart_values(file: str = "values.yaml") -> Document:
    """A values file; the defaults with those of the charts inside. Not to be changed."""
    values = yaml.load((CHART / file).read_text(), UniqueKeys)
    if file == "values.yaml":
        for path in CHART.glob("charts/*/values.yaml"):
            inner = yaml.load(path.read_text(), UniqueKeys)
            values[path.parent.name] = {**inner, **values[path.parent.name]}
    return values


@functools.cache
def chart_schema() -> Document:
    """Not to be changed."""
    return json.loads((CHART / "values.schema.json").read_text())


def value_files() -> list[str]:
    """The chart's own, beside the defaults."""
    return sorted(path.name for path in CHART.glob("values-*.yaml"))


def leaves(values: Values, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all values that are not mappings themselves, empty mappings included."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def at(path: tuple[str, ...], value: Any) -> Document:
    """{a: {b: value}} for (a, b)."""
    return functools.reduce(lambda inner, key: {key: inner}, reversed(path), value)
