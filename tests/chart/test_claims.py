"""Claims of DRA: what is asked for, and when a claim is another one."""

import json

import pytest

from tests.chart.rendering import Document, Rendering, chart_values, render
from tests.chart.switches import Values, merge

DRA: Values = {"stage": {"gpu": {"allocation": "dra"}}}
ANYTHING_ELSE: list[Values] = [
    {"stage": {"gpu": {"count": 4}}},
    {"stage": {"gpu": {"dra": {"deviceClassName": "mig.nvidia.com"}}}},
    {"stage": {"gpu": {"dra": {"selectors": ["true"]}}}},
]


def test_claims_ask_for_what_is_said() -> None:
    """DRA: one claim per pod with all its GPUs, and no count for the device plugin."""
    selectors = ['device.attributes["gpu.nvidia.com"].architecture == "Hopper"']
    gpu = {"count": 4, "allocation": "dra", "dra": {"deviceClassName": "gpus", "selectors": selectors}}
    rendering = render(set={"stage": {"gpu": gpu}})
    stage = rendering.workload("stage")
    (claim,) = stage.spec["resourceClaims"]
    template: Document = rendering.one("ResourceClaimTemplate", claim["resourceClaimTemplateName"])
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    exactly = request["exactly"]
    assert (exactly["count"], exactly["deviceClassName"]) == (4, "gpus")
    assert exactly["selectors"] == [{"cel": {"expression": selectors[0]}}]
    assert stage.main["resources"]["claims"] == [{"name": claim["name"]}]
    assert "nvidia.com/gpu" not in stage.main["resources"].get("limits", {})
    assert chart_values()["stage"]["gpu"]["count"] == 5


@pytest.mark.parametrize("over", ANYTHING_ELSE, ids=json.dumps)
def test_another_claim_is_another_template(over: Values) -> None:
    """The API server refuses to change the spec of a ResourceClaimTemplate, and the upgrade with it."""
    before, after = claim_template(render(set=DRA)), claim_template(render(set=merge(DRA, over)))
    assert before["spec"] != after["spec"]
    assert before["metadata"]["name"] != after["metadata"]["name"]


def test_the_same_claim_keeps_its_template() -> None:
    """Else every upgrade would replace the pods."""
    other = {"stage": {"nccl": {"NCCL_DEBUG": "INFO"}, "image": {"tag": "9"}}}
    before, after = claim_template(render(set=DRA)), claim_template(render(set=merge(DRA, other)))
    assert before["metadata"]["name"] == after["metadata"]["name"]


def claim_template(rendering: Rendering) -> Document:
    (found,) = rendering.of("stage", "ResourceClaimTemplate")
    (claim,) = rendering.workload("stage").spec["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == found["metadata"]["name"]
    return found
