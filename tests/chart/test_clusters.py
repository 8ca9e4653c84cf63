"""Clusters as people have them: users given by the cluster, quotas, proxies, meshes. Everything that runs is
meant: the services, the download Job, the test pod, the chart's Redis.
"""

import functools
from typing import Any

import pytest

from tests.chart.network import DNS, Network
from tests.chart.policies import Peer
from tests.chart.properties.validity import amount, faults
from tests.chart.rendering import Rendering, Workload, at, chart_values, render
from tests.chart.schemas import VERSIONS
from tests.chart.switches import MODEL, SWITCHES, Values, merge

DOWNLOAD: Values = {**MODEL, "weights": {"source": "download"}}
ALL = merge(SWITCHES["redis"]["bundled"], DOWNLOAD)
PATHS = {
    "stage": ("stage",),
    "decoder": ("decoder",),
    "gateway": ("gateway",),
    "weights": ("weights", "download"),
    "test": ("tests",),
    "redis": ("redis",),
}
"""Component -> where its values are."""


def everywhere(value: Values) -> Values:
    """The same in the values of everything that runs."""
    return functools.reduce(merge, (at(path, value) for path in PATHS.values()), ALL)


def pods(rendering: Rendering) -> dict[str, Workload]:
    found = {each.component: each for each in rendering.workloads()}
    assert set(found) == set(PATHS)
    return found


def test_users_and_groups_are_left_to_the_cluster() -> None:
    """As OpenShift's `restricted-v2` wants it; what else makes a pod restricted stays."""
    for pod in pods(render(set=merge(ALL, SWITCHES["cluster"]["openshift"]))).values():
        context = pod.spec["securityContext"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(context)
        assert context["runAsNonRoot"] is True
        assert pod.main["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("own", [{}, {"runAsUser": 4711}], ids=["none", "another"])
def test_each_pod_can_have_contexts_of_its_own(own: dict[str, Any]) -> None:
    given = {"podSecurityContext": own, "securityContext": own}
    redis = {name: dict.fromkeys(chart_values()["redis"][name]) | own for name in given}
    for pod in pods(render(set=merge(everywhere(given), {"redis": redis}))).values():
        assert (pod.spec["securityContext"], pod.main["securityContext"]) == (own, own)


def test_no_contexts_at_all() -> None:
    none = {"podSecurityContext": None, "securityContext": None}
    for pod in pods(render(set=merge(ALL, {**none, "redis": none}))).values():
        assert (pod.spec["securityContext"], pod.main["securityContext"]) == ({}, {})


def test_a_quota_finds_cpu_limits_everywhere() -> None:
    own = {"tests": {"resources": {"limits": {"cpu": "3"}}}}
    rendering = render(set=functools.reduce(merge, (ALL, SWITCHES["cluster"]["quota"], own)))
    for name, pod in pods(rendering).items():
        for container in pod.containers:
            limits, asked = container["resources"]["limits"], container["resources"]["requests"]
            assert amount(limits["cpu"]) == (3 if name == "test" else 2 * amount(asked["cpu"]))
            assert limits["memory"]
    assert not [each for each in pods(render(set=ALL)).values() if "cpu" in each.main["resources"]["limits"]]


def test_everything_that_runs_takes_what_a_cluster_adds() -> None:
    """One naming for all; a pod that is no other object's has no labels beside the pod's."""
    bundle = {"name": "bundle", "configMap": {"name": "corporate-ca"}}
    mount = {"name": "bundle", "mountPath": "/etc/ssl/corporate", "readOnly": True}
    added = {
        "podAnnotations": {"sidecar.istio.io/inject": "false"},
        "podLabels": {"team": "video"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
        "extraEnvFrom": [{"configMapRef": {"name": "proxy", "optional": True}}],
        "extraVolumes": [bundle],
        "extraVolumeMounts": [mount],
    }
    object_too = {"annotations": {"reloader.example/auto": "true"}, "labels": {"queue": "night"}}
    values = merge(everywhere(added), {"tests": {}})
    for name, path in PATHS.items():
        values = merge(values, at(path, object_too)) if name != "test" else values
    rendering, plain = render(set=values), render(set=ALL)
    assert not list(faults(rendering, VERSIONS[-1]))
    for name, pod in pods(rendering).items():
        before = pods(plain)[name]
        assert pod.pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
        assert pod.labels == before.labels | {"team": "video"}
        assert pod.main["env"] == before.main["env"] + added["extraEnv"]
        assert pod.main["envFrom"] == added["extraEnvFrom"]
        assert mount in pod.main["volumeMounts"]
        assert bundle in pod.spec["volumes"]
        if name != "test":
            metadata = pod.document["metadata"]
            assert metadata["annotations"] == before.document["metadata"].get("annotations", {}) | {
                "reloader.example/auto": "true"
            }
            assert metadata["labels"] == before.document["metadata"]["labels"] | {"queue": "night"}


def test_the_download_gets_through_a_proxy() -> None:
    """It runs before all policies but its own."""
    proxy = Peer({"app": "squid"}, "egress")
    there = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "egress"}}}]
    rules = [{"to": there, "ports": [{"port": 3128, "protocol": "TCP"}]}]
    for name, for_all in (("download", False), ("extraEgress", True)):
        rendering = render(set=merge(DOWNLOAD, {"networkPolicy": {name: rules}}))
        network = Network(rendering)
        (job,) = (pod for pod in network.pods if pod.endswith("-weights"))
        own = [each for each in network.policies if each["metadata"]["name"] == job]
        network.policies, all_policies = own, network.policies
        assert network.opens(network.pods[job], proxy, 3128), name
        network.policies = all_policies
        assert network.opens(network.servers["stage"], proxy, 3128) is for_all


def test_names_are_resolved_at_other_ports() -> None:
    """A policy sees the pod's port, after the Service: 5353 in OpenShift."""
    dns = Peer({}, "openshift-dns", ports={"dns": 5353})
    there = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}}]
    network = Network(render(set=merge(ALL, {"networkPolicy": {"dns": there, "dnsPorts": [5353]}})))
    for name, pod in network.pods.items():
        is_redis = name.endswith("-redis")
        assert network.opens(pod, dns, 5353, "UDP") is not is_redis
        assert not network.opens(pod, DNS, 53, "UDP")
