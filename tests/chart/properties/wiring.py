"""Names, addresses and command lines: what one part of an installation says, the other part understands."""

import json
import re
from collections.abc import Iterator

from cascade_client.cli import build_parser as client_parser
from cascade_core.commands.cli import build_parser as engine_parser
from services.common import probe
from tests.chart.installation import Installation, everywhere
from tests.chart.pods import environment
from tests.chart.rendering import NAMESPACE, RELEASE, ROOT, Rendering

ADDRESS = re.compile(r"([a-z0-9-]+)(?:\.([a-z0-9-]+))?(?:\.svc(?:\.cluster\.local)?)?:(\d+)")


@everywhere
def command_lines_are_understood(its: Installation) -> None:
    """By the parsers of the programs themselves."""
    for workload in its.rendering.workloads():
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


@everywhere
def addresses_lead_to_services(its: Installation) -> None:
    """KEDA, the test pod and the gateway's Redis URL name Services and ports of this installation."""
    rendering = its.rendering
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


@everywhere
def certificates_have_the_names_that_are_called(its: Installation) -> None:
    rendering = its.rendering
    certificates = {each["spec"]["secretName"]: each["spec"] for each in rendering.all("Certificate")}
    settings = its.settings["gateway"]
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


@everywhere
def authentications_of_autoscalers_exist(its: Installation) -> None:
    rendering = its.rendering
    secrets = {each["metadata"]["name"] for each in rendering.all("Secret")}
    secrets |= {each["spec"]["secretName"] for each in rendering.all("Certificate")}
    brought = json.dumps(its.values)
    for scaled in rendering.all("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            if "authenticationRef" in trigger:
                found = rendering.one("TriggerAuthentication", trigger["authenticationRef"]["name"])
                for each in found["spec"]["secretTargetRef"]:
                    assert each["name"] in secrets or f'"{each["name"]}"' in brought


@everywhere
def the_edge_leads_to_the_gateway(its: Installation) -> None:
    rendering = its.rendering
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


@everywhere
def service_links_are_off(its: Installation) -> None:
    """A release called `cascade` would get CASCADE_STAGE_PORT=tcp://... and the like."""
    for workload in its.rendering.workloads():
        assert workload.spec["enableServiceLinks"] is False, workload.name


@everywhere
def images_have_a_version(its: Installation) -> None:
    for workload in its.rendering.workloads():
        for container in workload.containers:
            assert re.search(r":\d|@sha256:", container["image"]), container["image"]


@everywhere
def no_variable_stands_twice(its: Installation) -> None:
    for workload in its.rendering.workloads():
        for container in workload.containers:
            names = [each["name"] for each in container.get("env", ())]
            assert len(names) == len(set(names)), workload.name
