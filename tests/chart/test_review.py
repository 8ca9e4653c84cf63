"""What would have broken at a real installation: defects found by reading the chart as a cluster does."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cascade_client.cli import build_parser
from tests.chart.cases import CASES, Case
from tests.chart.pods import settings_of
from tests.chart.rendering import (
    CHART,
    NAMESPACE,
    RELEASE,
    ROOT,
    Document,
    Rendering,
    helm,
    refusal,
    render,
    value_files,
)
from tests.chart.switches import MODEL, Values, merge

GUIDE = (ROOT / "docs" / "kubernetes.md").read_text()
DRA: Values = {"stage": {"gpu": {"allocation": "dra"}}}
ANYTHING_ELSE: list[Values] = [
    {"stage": {"gpu": {"count": 4}}},
    {"stage": {"gpu": {"dra": {"deviceClassName": "mig.nvidia.com"}}}},
    {"stage": {"gpu": {"dra": {"selectors": ["true"]}}}},
]
MAX_LABEL = 63
HASH = "-0123456789"
"""What the StatefulSet controller appends to its name, for the label `controller-revision-hash`."""


def claim_template(rendering: Rendering) -> Document:
    (found,) = rendering.of("stage", "ResourceClaimTemplate")
    (claim,) = rendering.workload("stage").spec["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == found["metadata"]["name"]
    return found


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


def test_nodes_with_a_foreign_taint_are_not_empty_ones() -> None:
    """Gateways are spread with DoNotSchedule in values-ha.yaml. Tainted GPU nodes would count as nodes
    without one, so that on two CPU nodes the third gateway would stay pending for ever."""
    for component in ("gateway", "decoder"):
        spread = render("values-ha.yaml").workload(component).spec["topologySpreadConstraints"]
        assert spread
        assert {each["nodeTaintsPolicy"] for each in spread} == {"Honor"}


def test_the_taints_policy_can_be_chosen() -> None:
    spread = {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "nodeTaintsPolicy": "Ignore",
    }
    (found,) = (
        render(set={"gateway": {"topologySpreadConstraints": [spread]}})
        .workload("gateway")
        .spec["topologySpreadConstraints"]
    )
    assert found["nodeTaintsPolicy"] == "Ignore"


def test_scratch_keeps_no_node() -> None:
    """cluster-autoscaler never gives a node back whose pods have local volumes, unless they are named."""
    own = {"stage": {"podAnnotations": {"a": "b"}}}
    for workload in render(set=own).deployments():
        local = {
            each["name"]
            for each in workload.spec["volumes"]
            if "emptyDir" in each and each["emptyDir"].get("medium") != "Memory"
        }
        annotations = workload.pod["metadata"]["annotations"]
        named = annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"]
        assert local == set(named.split(","))
        assert (workload.component == "stage") == ("a" in annotations)


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


def test_the_download_runs_where_all_nodes_have_gpus() -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    download = {"tolerations": [taint], "nodeSelector": {"zone": "a"}}
    (job,) = render(set={**MODEL, "weights": {"source": "download", "download": download}}).all("Job")
    spec = job["spec"]["template"]["spec"]
    assert (spec["tolerations"], spec["nodeSelector"]) == ([taint], {"zone": "a"})


def notes(values: Values) -> str:
    command = ["install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client", "--values", "-"]
    done: subprocess.CompletedProcess[str] = helm(*command, stdin=json.dumps(values))
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def from_zero(**scaler: Any) -> Values:
    return {
        "autoscaling": {"keda": {"enabled": True}, "stage": {"min": 0}},
        "gateway": {"settings": {"scaler": scaler}},
    }


def test_zero_stages_that_never_come_are_told() -> None:
    """`warm_stage_sessions` is 1 unless said otherwise, so the gateways always ask for a stage."""
    assert "scaler.warm_stage_sessions to 0" in notes(from_zero())
    assert "warm_stage_sessions" not in notes(from_zero(warm_stage_sessions=0))


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


def test_helm_waits_for_its_test() -> None:
    """helm's own patience is 5 minutes."""
    assert "--timeout 1830s" in notes({"tests": {"timeoutSeconds": 1800}})


def test_sessions_outlast_a_replacement_in_place(tmp_path: Path) -> None:
    """Where no other stage is free they wait until the successor has loaded, as long as that may take."""
    in_place = [
        rendering
        for rendering in map(render, value_files())
        if not rendering.workload("stage").document["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    ]
    assert in_place
    for rendering in in_place:
        probe = rendering.workload("stage").main["startupProbe"]
        settings = settings_of(rendering, rendering.workload("gateway"), tmp_path)
        assert settings.gateway.recovery_timeout_s >= probe["failureThreshold"] * probe["periodSeconds"]


@pytest.mark.parametrize("name", ["HOME", "NCCL_DEBUG"])
def test_a_variable_that_would_stand_twice_is_refused(name: str) -> None:
    """helm 4 applies at the server, which takes no list of variables with a name twice."""
    text = refusal(set={"stage": {"extraEnv": [{"name": name, "value": "x"}]}})
    assert f"stage.extraEnv has {name}" in text


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_variable_stands_twice(case: Case) -> None:
    for workload in case.render().workloads():
        for container in workload.containers:
            names = [each["name"] for each in container.get("env", ())]
            assert len(names) == len(set(names)), workload.name


def test_notes_look_for_a_name_that_a_certificate_has_to_have() -> None:
    """By a port-forward the address is localhost; KEDA and `helm test` already need this name."""
    rendering = render("values-ha.yaml")
    (pod,) = rendering.all("Pod")
    (address,) = (
        each["value"]
        for each in pod["spec"]["containers"][0]["env"]
        if each["name"] == "CASCADE_CLIENT_GATEWAY"
    )
    tls = {"tls": {"enabled": True, "existingSecrets": dict.fromkeys(("stage", "decoder", "gateway"), "x")}}
    assert f"--server-name {address.rpartition(':')[0]}" in notes(tls)
