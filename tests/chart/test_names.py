"""Names of objects: as long as may be, and of several releases."""

import pytest

from tests.chart.cases import FILES, ROWS, Case
from tests.chart.policies import selects
from tests.chart.properties.validity import faults
from tests.chart.rendering import render
from tests.chart.schemas import VERSIONS

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
