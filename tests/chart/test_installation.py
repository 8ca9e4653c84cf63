"""Names, addresses and command lines: what one part of an installation says, the other part understands."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade_client.cli import build_parser as client_parser
from cascade_core.commands.cli import build_parser as engine_parser
from services.common import probe
from tests.chart.cases import CASES, FILES, ROWS, Case
from tests.chart.golden import normal
from tests.chart.pods import environment, settings_of
from tests.chart.policies import selects
from tests.chart.rendering import (
    CHART,
    NAMESPACE,
    RELEASE,
    ROOT,
    Document,
    Rendering,
    chart_values,
    helm,
    parse,
    render,
)
from tests.chart.schemas import complaints

each_case = pytest.mark.parametrize("case", CASES, ids=str)
ADDRESS = re.compile(r"([a-z0-9-]+)(?:\.([a-z0-9-]+))?(?:\.svc(?:\.cluster\.local)?)?:(\d+)")


@each_case
def test_command_lines_are_understood(case: Case) -> None:
    """By the parsers of the programs themselves."""
    for workload in case.render().workloads():
        for container in workload.containers:
            command = [*container.get("command", ()), *container.get("args", ())]
            parse_command(command)
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                if "exec" in (container.get(name) or {}):
                    parse_command(container[name]["exec"]["command"])


def parse_command(command: list[str]) -> None:
    """Exits as the program would where it does not understand."""
    match command:
        case ["python", "-m", "services.common.probe", *rest]:
            probe.parse(rest)
        case ["python", "-m", "cascade_client", *rest]:
            client_parser().parse_args(rest)
        case ["cascade-engine", *rest]:
            engine_parser().parse_args(rest)
        case ["python", "-m", module]:
            assert (ROOT / module.replace(".", "/") / "__main__.py").is_file()
        case _:
            assert command[0] == "sh", command


@each_case
def test_addresses_lead_to_services(case: Case) -> None:
    """KEDA, the test pod and the gateway's Redis URL name Services and ports of this installation."""
    rendering = case.render()
    services = {each["metadata"]["name"]: each["spec"] for each in rendering.all("Service")}
    for address in addresses(rendering):
        host, namespace, port = ADDRESS.fullmatch(address).groups()
        assert host in services, address
        assert namespace in (None, NAMESPACE)
        assert int(port) in {each["port"] for each in services[host]["ports"]}


def addresses(rendering: Rendering) -> Iterator[str]:
    for scaled in rendering.all("ScaledObject"):
        yield from (each["metadata"]["scalerAddress"] for each in scaled["spec"]["triggers"])
    for workload in rendering.workloads():
        found = environment(rendering, workload.main)
        yield from (value for name, value in found.items() if name == "CASCADE_CLIENT_GATEWAY")
        url = found.get("CASCADE_GATEWAY_REDIS_URL", "")
        yield from re.findall(r"@([^/]+)", url if "redis.example" not in url else "")


@each_case
def test_certificates_have_the_names_that_are_called(case: Case, tmp_path: Path) -> None:
    rendering = case.render()
    certificates = {each["spec"]["secretName"]: each["spec"] for each in rendering.all("Certificate")}
    settings = settings_of(rendering, rendering.workload("gateway"), tmp_path)
    for component in ("stage", "decoder", "gateway"):
        workload = rendering.workload(component)
        secrets = [each["secret"]["secretName"] for each in workload.spec["volumes"] if each["name"] == "tls"]
        assert bool(secrets) == settings.peer.tls
        for secret in secrets:
            if secret in certificates:
                assert settings.peer.server_name in certificates[secret]["dnsNames"]
                assert {"server auth", "client auth"} <= set(certificates[secret]["usages"])
    if (gateway := certificates.get(f"{RELEASE}-gateway-tls")) is not None:
        for address in addresses(rendering):
            host = address.rpartition(":")[0]
            assert "redis" in host or host in gateway["dnsNames"]


@each_case
def test_authentications_of_autoscalers_exist(case: Case) -> None:
    rendering = case.render()
    secrets = {each["metadata"]["name"] for each in rendering.all("Secret")}
    secrets |= {each["spec"]["secretName"] for each in rendering.all("Certificate")}
    brought = json.dumps(case.all_values())
    for scaled in rendering.all("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            if "authenticationRef" in trigger:
                found = rendering.one("TriggerAuthentication", trigger["authenticationRef"]["name"])
                for each in found["spec"]["secretTargetRef"]:
                    assert each["name"] in secrets or f'"{each["name"]}"' in brought


@each_case
def test_the_edge_leads_to_the_gateway(case: Case) -> None:
    rendering = case.render()
    services = {each["metadata"]["name"]: each["spec"] for each in rendering.all("Service")}
    backends = [
        (path["backend"]["service"]["name"], path["backend"]["service"]["port"].get("name"))
        for ingress in rendering.all("Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    backends += [
        (backend["name"], backend["port"])
        for route in rendering.all("GRPCRoute", "HTTPRoute")
        for rule in route["spec"]["rules"]
        for backend in rule["backendRefs"]
    ]
    gateway = rendering.workload("gateway")
    for name, port in backends:
        assert services[name]["selector"].items() <= gateway.labels.items()
        assert port in {each[key] for each in services[name]["ports"] for key in ("name", "port")}


@each_case
def test_service_links_are_off(case: Case) -> None:
    """A release called `cascade` would get CASCADE_STAGE_PORT=tcp://... and the like."""
    for workload in case.render().workloads():
        assert workload.spec["enableServiceLinks"] is False, workload.name


def test_images_follow_the_values() -> None:
    digest = f"sha256:{'0' * 64}"
    images = {"image": {"registry": "registry.example/team/"}}
    images |= {each: {"image": {"tag": "1.2.3"}} for each in ("stage", "decoder")}
    rendering = render(set={**images, "gateway": {"image": {"digest": digest}}})
    found = {each.component: each.main["image"] for each in rendering.workloads()}
    assert found["stage"] == "registry.example/team/cascade-engine:1.2.3"
    assert found["gateway"] == found["test"] == f"registry.example/team/cascade-gateway@{digest}"


@pytest.mark.parametrize("case", FILES, ids=str)
def test_images_have_a_version(case: Case) -> None:
    for workload in case.render().workloads():
        for container in workload.containers:
            assert re.search(r":\d|@sha256:", container["image"]), container["image"]


def test_versions_are_one() -> None:
    """Image tags are the chart's appVersion, which is that of the package."""
    chart = parse((CHART / "Chart.yaml").read_text()).documents[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]
    for dependency in chart["dependencies"]:
        inner = parse((CHART / "charts" / dependency["name"] / "Chart.yaml").read_text()).documents[0]
        assert inner["version"] == dependency["version"]


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


@pytest.mark.parametrize("case", [*FILES, ROWS[1], ROWS[3]], ids=str)
def test_the_package_is_the_chart(case: Case, tmp_path: Path) -> None:
    """`helm package` leaves nothing out that templates need."""
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    files = [part for file in case.files for part in ("--values", str(CHART / file))]
    command = ["template", RELEASE, str(package), "--namespace", NAMESPACE, *files, "--values", "-"]
    packed = parse(helm(*command, stdin=json.dumps(case.values)).stdout)
    assert [normal(each) for each in packed.documents] == [normal(each) for each in case.render().documents]


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_notes_tell_the_next_command(case: Case) -> None:
    """With names that exist, and commands that the client understands."""
    rendering, text = case.render(), notes(case)
    assert f"helm --namespace {NAMESPACE} test {RELEASE}" in text
    named = re.findall(r"\b(deployment|service|secret)[/ ]([a-z0-9-]+)", text)
    assert named
    documents = {(each["kind"].lower(), each["metadata"]["name"]) for each in rendering.documents}
    documents |= {("secret", each["spec"]["secretName"]) for each in rendering.all("Certificate")}
    brought = json.dumps(case.all_values())
    for kind, name in named:
        assert (kind, name) in documents or f'"{name}"' in brought, f"{kind} {name}"
    commands = re.findall(r"^ +cascade (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        client_parser().parse_args(words(command))


def test_notes_tell_what_helm_test_lacks() -> None:
    keys = {"gateway": {"auth": {"modes": ["api_keys"], "apiKeys": {"existingSecret": "keys"}}}}
    sentence = "set tests.apiKey.existingSecret"
    assert sentence in notes(Case("keys", (), keys))
    assert sentence not in notes(Case("open"))
    assert sentence not in notes(Case("ha", ("values-ha.yaml",)))


def words(command: str) -> list[str]:
    """As a shell splits it, variables left as they are."""
    return [each.strip('"') for each in re.findall(r'"[^"]*"|\S+', command)]


def notes(case: Case) -> str:
    files = [part for file in case.files for part in ("--values", str(CHART / file))]
    command = ["install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client", *files]
    done = helm(*command, "--values", "-", stdin=json.dumps(case.values))
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


@pytest.mark.parametrize("strategy", ["surge", "inPlace"])
def test_rollouts_keep_what_is_there(strategy: str) -> None:
    """surge: never a pod fewer; inPlace: never a pod more, where no node is free for another one."""
    spec = render(set={"stage": {"strategy": strategy}}).workload("stage").document["spec"]["strategy"]
    wanted = {"surge": (1, 0), "inPlace": (0, 1)}[strategy]
    assert (spec["rollingUpdate"]["maxSurge"], spec["rollingUpdate"]["maxUnavailable"]) == wanted


def test_ranks_share_memory() -> None:
    """NCCL needs more than the 64 MiB that /dev/shm has on its own."""
    stage = render(set={"stage": {"sharedMemory": "4Gi"}}).workload("stage")
    (mount,) = (each for each in stage.main["volumeMounts"] if each["mountPath"] == "/dev/shm")
    (volume,) = (each for each in stage.spec["volumes"] if each["name"] == mount["name"])
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}


def test_the_oldest_cluster() -> None:
    """The one that Chart.yaml asks for: what it does not know is not sent."""
    chart = parse((CHART / "Chart.yaml").read_text()).documents[0]
    version = re.search(r">=(\d+\.\d+)", chart["kubeVersion"])[1]
    for case in FILES:
        documents = case.render(version).documents
        assert not [text for each in documents for text in complaints(each, version)]


def test_placement_reaches_the_pods() -> None:
    """GPU products join what else is asked of a node."""
    node = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [node]}}
    stage = {
        "gpu": {"products": ["NVIDIA-H200"]},
        "affinity": {"nodeAffinity": required},
        "runtimeClassName": "nvidia",
        "priorityClassName": "video",
        "nodeSelector": {"pool": "gpus"},
    }
    spec = render(set={"stage": stage}).workload("stage").spec
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {each["key"] for each in term["matchExpressions"]} == {"zone", "nvidia.com/gpu.product"}
    assert (spec["runtimeClassName"], spec["priorityClassName"]) == ("nvidia", "video")
    assert spec["nodeSelector"] == {"pool": "gpus"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


def test_claims_ask_for_what_is_said() -> None:
    """DRA: one claim per pod with all its GPUs, and no count for the device plugin."""
    selectors = ['device.attributes["gpu.nvidia.com"].architecture == "Hopper"']
    gpu = {"count": 4, "allocation": "dra", "dra": {"deviceClassName": "gpus", "selectors": selectors}}
    rendering = render(set={"stage": {"gpu": gpu}})
    stage = rendering.workload("stage")
    (claim,) = stage.spec["resourceClaims"]
    template: Document = rendering.one("ResourceClaimTemplate", claim["resourceClaimTemplateName"])
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    exactly: dict[str, Any] = request["exactly"]
    assert (exactly["count"], exactly["deviceClassName"]) == (4, "gpus")
    assert exactly["selectors"] == [{"cel": {"expression": selectors[0]}}]
    assert stage.main["resources"]["claims"] == [{"name": claim["name"]}]
    assert "nvidia.com/gpu" not in stage.main["resources"].get("limits", {})
    assert chart_values()["stage"]["gpu"]["count"] == 5
