"""Names of objects: as long as may be, and of several releases."""

import functools
import re
import shutil
from pathlib import Path

import pytest

from tests.chart.cases import FILES, ROWS, Case
from tests.chart.policies import selects
from tests.chart.properties.validity import faults
from tests.chart.rendering import CHART, RELEASE, helm, labels_of, parse, refusal, render, template
from tests.chart.schemas import VERSIONS
from tests.chart.switches import merge
from tests.chart.test_every_value import EVERYTHING

MAX_LABEL = 63
HASH = "-0123456789"
"""What the StatefulSet controller appends to its name, for the label `controller-revision-hash`."""


@pytest.mark.parametrize("case", FILES, ids=str)
def test_a_long_release_name(case: Case) -> None:
    """The longest that helm takes: names are cut, and stay apart."""
    rendering = render(*case.files, release="a-release-name-of-fifty-three-characters-exactly-here")
    assert not list(faults(rendering, VERSIONS[-1]))


def test_the_longest_release_has_a_redis() -> None:
    """A StatefulSet whose name is too long for its pods' label makes no pods."""
    release = "a" * 53
    rendering = render(set={"redis": {"enabled": True}}, release=release)
    (redis,) = rendering.all("StatefulSet")
    name = redis["metadata"]["name"]
    assert len(name + HASH) <= MAX_LABEL
    assert rendering.one("Service", name)["spec"]["ports"]
    assert rendering.one("Secret", name)["data"]["password"]
    assert rendering.one("NetworkPolicy", name)
    environment = {each["name"]: each for each in rendering.workload("gateway").main["env"]}
    assert f"@{name}:6379/" in environment["CASCADE_GATEWAY_REDIS_URL"]["value"]
    assert environment["REDIS_PASSWORD"]["valueFrom"]["secretKeyRef"]["name"] == name


@pytest.mark.parametrize("release", ["true", "null", "on", "1234", "1e3"])
def test_a_name_that_yaml_reads_as_something_else(release: str) -> None:
    """A label that is a number or a truth is refused by the API server."""
    named = {"fullnameOverride": "video", "redis": {"fullnameOverride": "video"}}
    values = functools.reduce(merge, (EVERYTHING, named if release[0].isdigit() else {}))
    rendering = render(set=values, release=release)
    assert not list(faults(rendering, VERSIONS[-1]))
    assert {labels_of(each)["app.kubernetes.io/instance"] for each in rendering.documents} == {release}


@pytest.mark.parametrize("release", ["4k-video", "my.video", "4.k"])
def test_a_release_that_no_service_can_be_called_after(release: str) -> None:
    """helm takes digits first, and dots."""
    text = template((), '{"redis": {"enabled": true}}', None, release, False).stderr
    assert f"the release is called {release}, and Kubernetes would refuse" in text
    assert f"the chart's Redis would be called {release}-redis" in text
    names = {"fullnameOverride": "video", "redis": {"enabled": True, "fullnameOverride": "video"}}
    rendering = render(set=names, release=release)
    assert not list(faults(rendering, VERSIONS[-1]))
    assert {each["metadata"]["name"].partition("-")[0] for each in rendering.documents} == {"video"}
    url = {each["name"]: each.get("value") for each in rendering.workload("gateway").main["env"]}
    assert "@video-redis:6379" in url["CASCADE_GATEWAY_REDIS_URL"]


@pytest.mark.parametrize("name", ["1video", "Video", "a_b", "a.b", "a-", "-a", "a" * 47, "vidéo"])
def test_an_override_that_no_service_can_be_called_after(name: str) -> None:
    assert f"fullnameOverride is {name}, and Kubernetes would refuse" in refusal(
        set={"fullnameOverride": name}
    )


def test_the_longest_override() -> None:
    rendering = render(set={"fullnameOverride": "a" * 46, "redis": {"enabled": True}})
    assert not list(faults(rendering, VERSIONS[-1]))


@pytest.mark.parametrize("case", [FILES[0], ROWS[1], ROWS[3]], ids=str)
def test_two_releases_share_a_namespace(case: Case) -> None:
    one, other = (render(*case.files, set=case.values, release=name) for name in ("one", "one-more"))
    names = [{(each["kind"], each["metadata"]["name"]) for each in each.documents} for each in (one, other)]
    assert not names[0] & names[1]
    for workload in one.workloads():
        for policy in other.all("NetworkPolicy", "PodDisruptionBudget"):
            selector = policy["spec"].get("podSelector") or policy["spec"]["selector"]
            assert not selects(selector, workload.labels)
        for service in other.all("Service"):
            assert not service["spec"]["selector"].items() <= workload.labels.items()


def test_templates_have_names_of_their_own() -> None:
    """helm has one set of names for all charts of a release: another chart called redis would give us its."""
    texts = [path.read_text() for path in CHART.rglob("*.tpl")]
    names = [name for text in texts for name in re.findall(r'define "(.+?)"', text)]
    assert len(names) > 50
    assert not [name for name in names if not name.startswith("cascade.")]


def test_a_chart_above_this_one(tmp_path: Path) -> None:
    """Takes values away by null, has helpers of its own, and the chart twice."""
    shutil.copytree(CHART, tmp_path / "charts" / "cascade")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "_helpers.tpl").write_text('{{ define "redis.name" }}theirs{{ end }}')
    twice = ", ".join(f"{{name: cascade, version: 0.1.0, alias: {alias}}}" for alias in ("one", "two"))
    (tmp_path / "Chart.yaml").write_text(
        f"apiVersion: v2\nname: above\nversion: 1.0.0\ndependencies: [{twice}]\n"
    )
    values = tmp_path / "values.yaml"
    one = "one: {redis: {enabled: true}, stage: {nccl: null, podSecurityContext: null}}"
    values.write_text(
        f"{one}\ntwo: {{fullnameOverride: two, redis: {{enabled: true, fullnameOverride: two}}}}\n"
    )
    done = helm("template", RELEASE, str(tmp_path))
    assert done.returncode == 0, done.stderr
    rendering = parse(done.stdout)
    assert not list(faults(rendering, VERSIONS[-1]))
    for name in (f"{RELEASE}-redis", "two-redis"):
        for kind, path in (("Service", "selector"), ("NetworkPolicy", "podSelector")):
            chosen = rendering.one(kind, name)["spec"][path]
            labels = chosen.get("matchLabels", chosen)
            assert [each.name for each in rendering.workloads() if labels.items() <= each.labels.items()] == [
                name
            ]
    values.write_text("one: {stage: {gpu: null}}")
    assert "at '/stage': missing property 'gpu'" in helm("template", RELEASE, str(tmp_path)).stderr
