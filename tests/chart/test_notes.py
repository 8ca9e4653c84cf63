"""What helm tells after an installation: commands and addresses that are right, and what is missing."""

import json
import re
from typing import Any

import pytest

from cascade_client.cli import build_parser as client_parser
from tests.chart.cases import CASES, Case
from tests.chart.rendering import NAMESPACE, RELEASE, notes, render
from tests.chart.switches import SWITCHES, Values, merge

WEB = SWITCHES["web"]
TLS = SWITCHES["tls"]["secrets"]


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_notes_tell_the_next_command(case: Case) -> None:
    """With names that exist, and commands that the client understands."""
    rendering, text = case.render(), notes(*case.files, set=case.values)
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


def words(command: str) -> list[str]:
    """As a shell splits it, variables left as they are."""
    return [each.strip('"') for each in re.findall(r'"[^"]*"|\S+', command)]


def test_notes_tell_what_helm_test_lacks() -> None:
    keys = {"gateway": {"auth": {"modes": ["api_keys"], "apiKeys": {"existingSecret": "keys"}}}}
    sentence = "set tests.apiKey.existingSecret"
    assert sentence in notes(set=keys)
    assert sentence not in notes()
    assert sentence not in notes("values-ha.yaml")


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({}, "http://localhost:8080/"),
        (TLS, "https://localhost:8080/"),
        (SWITCHES["edge"]["balancer"], 'echo "http://$HOST:8080/"'),
        (WEB["webingress"], "http://page.example/"),
        (WEB["webroute"], "https://page.example/"),
    ],
)
def test_notes_tell_the_address(values: Values, address: str) -> None:
    text = notes(set=values)
    assert f"  {address}" in text
    assert ("trusted_proxies" in text) is ("page.example" in text)
    assert not re.search(r"%!|<no value>", text)


@pytest.mark.parametrize("edge", ["ingress", "route"])
def test_notes_warn_of_few_addresses(edge: str) -> None:
    """Behind a proxy of gRPC's; not where it is named."""
    values, sentence = SWITCHES["edge"][edge], "set gateway.settings.grpc.trusted_proxies"
    named = {"gateway": {"settings": {"grpc": {"trusted_proxies": ["10.0.0.0/8"]}}}}
    assert sentence in notes(set=values)
    assert sentence not in notes(set=merge(values, named))
    assert sentence not in notes()


def test_notes_warn_of_a_proxy_with_a_certificate() -> None:
    """By which everybody behind it would be let in."""
    mutual = merge(TLS, {"tls": {"gatewayRequiresClientCertificates": True}, "tests": {"enabled": False}})
    for values in (WEB["webingress"], WEB["webroute"]):
        assert "everybody's credential" in notes(set=merge(mutual, values))
        assert "everybody's credential" not in notes(set=merge(TLS, values))
    assert "everybody's credential" not in notes(set=mutual)


def test_notes_of_no_page() -> None:
    assert "browser" not in notes(set=WEB["nopage"])


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
    assert f"--server-name {address.rpartition(':')[0]}" in notes(set=tls)


def test_notes_tell_of_nodes_with_few_gpus() -> None:
    """Until somebody has said how many they have."""
    assert "5 GPUs of one node, and stays Pending where no node has them" in notes()
    for files in (["values-h100.yaml"], ["values-h100.yaml", "values-4gpu.yaml"], ["values-demo-cpu.yaml"]):
        assert "of one node" not in notes(*files)


def test_zero_stages_that_never_come_are_told() -> None:
    """`warm_stage_sessions` is 1 unless said otherwise, so the gateways always ask for a stage."""
    assert "scaler.warm_stage_sessions to 0" in notes(set=from_zero())
    assert "warm_stage_sessions" not in notes(set=from_zero(warm_stage_sessions=0))


def from_zero(**scaler: Any) -> Values:
    return {
        "autoscaling": {"keda": {"enabled": True}, "stage": {"min": 0}},
        "gateway": {"settings": {"scaler": scaler}},
    }


def test_helm_waits_for_its_test() -> None:
    """helm's own patience is 5 minutes."""
    assert "--timeout 1830s" in notes(set={"tests": {"timeoutSeconds": 1800}})
