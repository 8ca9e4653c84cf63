"""docs/kubernetes.md says what the chart does."""

import functools
import re

import yaml

from cascade_client.cli import build_parser
from tests.chart.properties.validity import faults
from tests.chart.rendering import ROOT, render
from tests.chart.schemas import VERSIONS
from tests.chart.switches import MODEL, SWITCHES, merge

BESIDE = merge(SWITCHES["redis"]["bundled"], {**MODEL, "weights": {"source": "download"}})

GUIDE = (ROOT / "docs" / "kubernetes.md").read_text()


def test_the_guide_drains_with_every_credential() -> None:
    """values-ha.yaml has peerAuth: a stage refuses `cascade drain` without the gateways' key, which is there
    where the guide says."""
    section = GUIDE.partition("## Drain by hand")[2].partition("\n## ")[0]
    gateway = render("values-ha.yaml").workload("gateway")
    mounts = [each["mountPath"] for each in gateway.main["volumeMounts"]]
    options = build_parser().parse_args(
        ["drain", "10.0.0.1:50061", "--wait", "--api-key-file", "/etc/cascade/peer/key"]
    )
    assert f"--api-key-file {options.api_key_file}" in section
    assert str(options.api_key_file.parent) in mounts


def test_what_the_guide_sets_is_taken() -> None:
    """Each block of values, all together."""
    snippets = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
    assert len(snippets) > 5
    rendering = render(set=functools.reduce(merge, snippets, BESIDE))
    assert not list(faults(rendering, VERSIONS[-1]))


def test_the_guide_names_each_secret_that_helm_template_makes_anew() -> None:
    values = {"redis": {"enabled": True}, "peerAuth": {"enabled": True}}
    one, other = (
        {each["metadata"]["name"]: each["data"] for each in render(set=merge(values, salt)).all("Secret")}
        for salt in ({}, {"commonLabels": {"again": "yes"}})
    )
    changing = {name for name in one if one[name] != other[name]}
    assert len(changing) == 3
    for value in ("gateway.tokenKey", "peerAuth", "redis.auth"):
        assert f"`{value}.existingSecret`" in GUIDE
