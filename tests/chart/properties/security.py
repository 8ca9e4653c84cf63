"""Every pod passes the `restricted` Pod Security Standard, holds only what it needs, and shows no secret."""

import json
import re
from collections.abc import Iterator

from tests.chart.installation import Installation, everywhere
from tests.chart.pods import secret_data
from tests.chart.rendering import Document, Workload
from tests.chart.rules import granted

UNRESTRICTED = {"hostPath"}
"""A weight source that needs a namespace which allows it; only where the values ask for it."""
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",  # allowed since Kubernetes 1.33 (kubernetes/kubernetes#130394)
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SHORTEST_SECRET = 8


@everywhere
def pods_are_restricted(its: Installation) -> None:
    wrong = []
    for workload in its.rendering.workloads():
        allowed = VOLUMES | ({its.case.weights} & UNRESTRICTED)
        wrong += [f"{workload.name}: {text}" for text in looseness(workload.spec, allowed)]
        is_given = its.values["podSecurityContext"]["runAsUser"] is None
        assert ("runAsUser" in workload.spec["securityContext"]) is not is_given
    assert not wrong, "\n".join(wrong)


def looseness(spec: Document, volumes: set[str]) -> Iterator[str]:
    """What `restricted` and our own hardening refuse."""
    pod = spec.get("securityContext") or {}
    for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes") or ():
        if not set(volume) - {"name"} <= volumes:
            yield f"volume {volume}"
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        context = {**pod, **(container.get("securityContext") or {})}
        yield from (f"{container['name']}: {text}" for text in looseness_of(context))
        if any(each.get("hostPort") for each in container.get("ports") or ()):
            yield f"{container['name']}: hostPort"
        if not ((container.get("resources") or {}).get("limits") or {}).get("memory"):
            yield f"{container['name']}: no memory limit"


def looseness_of(context: Document) -> Iterator[str]:
    wanted = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    yield from (f"{key} is not {value}" for key, value in wanted.items() if context.get(key) is not value)
    if context.get("privileged"):
        yield "privileged"
    if not context.get("runAsUser", "the cluster's"):
        yield "root"
    if (context.get("capabilities") or {}).get("drop") != ["ALL"] or context["capabilities"].get("add"):
        yield "capabilities"
    if (context.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield "seccompProfile"


@everywhere
def only_the_gateway_has_an_api_token(its: Installation) -> None:
    """By an explicit volume in the gateway's own container, and with a Role; nobody else has either."""
    rendering = its.rendering
    for workload in rendering.workloads():
        assert workload.spec["automountServiceAccountToken"] is False, workload.name
        account = workload.spec.get("serviceAccountName", "default")
        is_gateway = workload.component == "gateway" and workload.document["kind"] == "Deployment"
        assert has_token(workload) == is_gateway, workload.name
        assert bool(granted(rendering, account)) == is_gateway, workload.name
    for account in rendering.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    assert not rendering.all("ClusterRole", "ClusterRoleBinding")


def has_token(workload: Workload) -> bool:
    sources = [
        source
        for volume in workload.spec.get("volumes") or ()
        for source in (volume.get("projected") or {}).get("sources") or ()
    ]
    return any("serviceAccountToken" in each for each in sources)


@everywhere
def no_secret_is_in_plain_sight(its: Installation) -> None:
    """What our own Secrets hold stands nowhere else, and no variable carries a credential as text."""
    rendering = its.rendering
    secrets = [secret_data(rendering, each["metadata"]["name"]) for each in rendering.all("Secret")]
    values = {value for data in secrets for value in data.values() if len(value) >= SHORTEST_SECRET}
    rest = json.dumps([each for each in rendering.documents if each["kind"] != "Secret"])
    assert not [value for value in values if value in rest]
    for workload in rendering.workloads():
        for container in workload.containers:
            for each in container.get("env") or ():
                assert not is_credential(each["name"], each.get("value", "")), each


def is_credential(name: str, value: str) -> bool:
    """A password in an URL, or a text where a reference or a path belongs."""
    if re.search(r"://[^/\s]*:[^/\s$]+@", value):
        return True
    is_named = re.search(r"(PASSWORD|TOKEN|SECRET|API_?KEY)(_FILE)?$", name)
    return bool(is_named and value and not value.startswith(("/", "$(")))


@everywhere
def secret_files_are_not_for_everybody(its: Installation) -> None:
    for workload in its.rendering.workloads():
        for volume in workload.spec.get("volumes") or ():
            source = volume.get("secret") or volume.get("projected")
            if source is not None:
                mode = source.get("defaultMode", 0o644)
                assert mode & 0o007 == 0, f"{workload.name}: {volume['name']} is {mode:o}"
