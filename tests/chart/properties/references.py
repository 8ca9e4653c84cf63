"""What a pod names is there: in the installation, or in the values, whose reader brings it."""

import json

from tests.chart.installation import Installation, everywhere
from tests.chart.pods import references
from tests.chart.policies import selects
from tests.chart.rendering import Document, Rendering, Workload, labels_of

CLUSTER = {("ConfigMap", "kube-root-ca.crt")}
"""In every namespace."""


@everywhere
def everything_that_pods_name_exists(its: Installation) -> None:
    rendering = its.rendering
    own = {(each["kind"], each["metadata"]["name"]) for each in rendering.documents} | CLUSTER
    own |= {("Secret", each["spec"]["secretName"]) for each in rendering.all("Certificate")}
    brought = json.dumps(its.values)
    for workload in rendering.workloads():
        for kind, name in references(workload.spec):
            assert (kind, name) in own or f'"{name}"' in brought, f"{workload.name}: no {kind} {name}"


@everywhere
def hooks_need_nothing_that_comes_later(its: Installation) -> None:
    """A Job before the installation finds its account and claim, which therefore are hooks before it."""
    rendering = its.rendering
    for workload in rendering.workloads():
        moment = hook_of(workload.document)
        if moment is None or "pre-install" not in moment:
            continue
        for kind, name in references(workload.spec):
            found = [each for each in rendering.all(kind) if each["metadata"]["name"] == name]
            for document in found:
                assert "pre-install" in (hook_of(document) or ""), f"{workload.name} needs {kind} {name}"
                assert order_of(document) < order_of(workload.document)


def hook_of(document: Document) -> str | None:
    return (document["metadata"].get("annotations") or {}).get("helm.sh/hook")


def order_of(document: Document) -> tuple[int, str, int]:
    """helm sorts hooks by weight, then by name, then by kind: a Job is made after what it may need."""
    metadata = document["metadata"]
    return (
        int(metadata["annotations"].get("helm.sh/hook-weight", "0")),
        metadata["name"],
        document["kind"] == "Job",
    )


@everywhere
def selectors_meet_their_own_pods_alone(its: Installation) -> None:
    """Test pods and jobs of the release included, which must not get into a Service."""
    rendering = its.rendering
    for document in rendering.documents:
        selector = pod_selector(document)
        if selector is None:
            continue
        component = labels_of(document).get("app.kubernetes.io/component") or name_of(selector)
        found = {each.name for each in rendering.workloads() if selects(selector, each.labels)}
        name = f"{document['kind']}/{document['metadata']['name']}"
        if component is None:
            assert document["kind"] == "NetworkPolicy", f"{name} has no component"
            continue
        assert found == {each.name for each in servers(rendering, component, document)}, name


def name_of(selector: Document) -> str | None:
    """The component that a policy without that label of its own selects."""
    return (selector.get("matchLabels") or {}).get("app.kubernetes.io/component")


def servers(rendering: Rendering, component: str, document: Document) -> list[Workload]:
    """Whom a document of that component is about: its server, or for a policy also its jobs."""
    own = [each for each in rendering.workloads() if each.component == component]
    long_lived = [each for each in own if each.document["kind"] in ("Deployment", "StatefulSet")]
    return own if document["kind"] == "NetworkPolicy" else long_lived


def pod_selector(document: Document) -> Document | None:
    """In the form of a label selector; None: it has none."""
    spec = document.get("spec") or {}
    match document["kind"]:
        case "Service":
            return {"matchLabels": spec["selector"]}
        case "Deployment" | "StatefulSet" | "PodDisruptionBudget":
            return spec["selector"]
        case "NetworkPolicy":
            return spec["podSelector"]
        case "PodMonitor":
            return spec["selector"]
    return None


@everywhere
def monitors_find_their_services(its: Installation) -> None:
    rendering = its.rendering
    for monitor in rendering.all("ServiceMonitor"):
        spec = monitor["spec"]
        found = [each for each in rendering.all("Service") if selects(spec["selector"], labels_of(each))]
        components = {labels_of(each)["app.kubernetes.io/component"] for each in found}
        assert components == {labels_of(monitor)["app.kubernetes.io/component"]}
        for endpoint in spec["endpoints"]:
            ports = [each["name"] for service in found for each in service["spec"]["ports"]]
            assert ports.count(endpoint["port"]) == 1, "not scraped, or twice"
    watched = {labels_of(each)["app.kubernetes.io/component"] for each in rendering.all("ServiceMonitor")}
    assert watched in (set(), {each.component for each in rendering.deployments()})


@everywhere
def autoscalers_have_a_target_without_replicas(its: Installation) -> None:
    rendering = its.rendering
    counted = []
    for scaler in rendering.all("HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        counted.append(target["name"])
        assert target.get("kind", "Deployment") == "Deployment"
        assert "replicas" not in rendering.one("Deployment", target["name"])["spec"]
    assert len(counted) == len(set(counted)), "two autoscalers for one"
    for workload in rendering.deployments():
        assert ("replicas" in workload.document["spec"]) != (workload.name in counted)


@everywhere
def pods_spread_among_their_own(its: Installation) -> None:
    rendering = its.rendering
    for workload in rendering.deployments():
        for constraint in workload.spec.get("topologySpreadConstraints") or ():
            found = {
                each.name
                for each in rendering.workloads()
                if selects(constraint["labelSelector"], each.labels)
            }
            assert found == {workload.name}


@everywhere
def everything_is_labelled(its: Installation) -> None:
    for document in its.rendering.documents:
        labels = labels_of(document)
        assert labels["app.kubernetes.io/instance"] == "demo", document["metadata"]["name"]
        assert {"app.kubernetes.io/name", "app.kubernetes.io/managed-by", "helm.sh/chart"} <= set(labels)
