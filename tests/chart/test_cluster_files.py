"""k8s/: what a chart cannot own. Manifests against the API's schemas; the rest for what is known here."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade_client.cli import build_parser
from tests.chart.exported import exported
from tests.chart.promql import matched_labels, parse, selectors
from tests.chart.rendering import ROOT, render
from tests.chart.schemas import CUSTOM, VERSIONS, complaints

FOLDER = ROOT / "k8s"
FILES = sorted(FOLDER.glob("*.yaml"))
OTHERS = CUSTOM | {("cert-manager.io/v1", "ClusterIssuer"), ("kind.x-k8s.io/v1alpha4", "Cluster")}


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


MANIFESTS = [
    pytest.param(each, id=f"{path.name}-{each['kind']}")
    for path in FILES
    for each in documents(path)
    if "kind" in each and (each["apiVersion"], each["kind"]) not in OTHERS
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifests_are_what_kubernetes_takes(manifest: dict[str, Any], version: str) -> None:
    assert complaints(manifest, version) == []


def test_nothing_is_there_twice() -> None:
    """Never a second copy of a template."""
    rendered = {(each["kind"], each["metadata"]["name"]) for each in render(release="cascade").documents}
    mine = {
        (each["kind"], each["metadata"]["name"])
        for path in FILES
        for each in documents(path)
        if "metadata" in each
    }
    assert not rendered & mine


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_listed_and_says_how_it_is_used(path: Path) -> None:
    assert f"]({path.name})" in (FOLDER / "README.md").read_text() or path.name == "kind.yaml"
    assert path.read_text().startswith("# ")


def test_the_client_job_is_a_command_that_exists() -> None:
    (job,) = (each for each in documents(FOLDER / "client-job.yaml") if each["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = build_parser().parse_args(container["args"])
    mounts = [each["mountPath"] for each in container["volumeMounts"]]
    assert str(options.out.parent) in mounts, "the video stays"
    gateway = render(release="cascade").workload("gateway")
    assert container["image"] == gateway.main["image"]
    assert container["securityContext"] == gateway.main["securityContext"]
    assert pod["securityContext"].items() <= gateway.spec["securityContext"].items()
    (service,) = (
        e
        for e in render(release="cascade").of("gateway", "Service")
        if e["metadata"]["name"] == "cascade-gateway"
    )
    address = {each["name"]: each["value"] for each in container["env"]}["CASCADE_CLIENT_GATEWAY"]
    assert address == f"{service['metadata']['name']}.video.svc:{service['spec']['ports'][0]['port']}"


def test_commented_arguments_exist_too() -> None:
    text = (FOLDER / "client-job.yaml").read_text()
    names = re.findall(r"# - (--[\w-]+)=", text)
    assert len(names) == 2
    build_parser().parse_args(["generate", "x", *(f"{name}=/etc/x" for name in names)])


def test_the_adapter_serves_what_the_hpa_asks_for() -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter-values.yaml").read_text())["rules"]["external"]
    rendering = render(set={"autoscaling": {"hpa": {"enabled": True, "scrapedElsewhere": True}}})
    hpa = rendering.one("HorizontalPodAutoscaler", "demo-stage")["spec"]["metrics"][0]["external"]["metric"]
    (found,) = selectors(parse(rule["seriesQuery"]))
    assert found.name == hpa["name"]
    assert found.name in exported()
    assert rule["resources"]["overrides"].keys() <= matched_labels(found).keys()
    wanted = ",".join(f'{key}="{value}"' for key, value in hpa["selector"]["matchLabels"].items())
    query = rule["metricsQuery"].replace("<<.Series>>", found.name)
    asked = parse(query.replace("<<.LabelMatchers>>", f'{wanted},namespace="video"'))
    assert str(asked.op) == "max"
    (series,) = selectors(asked)
    assert matched_labels(series).keys() == {"component", "cascade_release", "namespace"}


def test_the_readme_builds_what_the_demo_needs() -> None:
    text = (FOLDER / "README.md").read_text()
    built = set(re.findall(r"docker build .*--tag (\S+)", text))
    loaded = set(re.search(r"kind load docker-image (.*) --name", text)[1].split())
    demo = {each.main["image"] for each in render("values-demo-cpu.yaml").deployments()}
    assert demo == built == loaded
    targets = set(re.findall(r"docker build --target (\S+)", text))
    assert targets <= set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
