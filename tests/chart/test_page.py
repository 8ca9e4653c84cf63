"""The page's port: from the edge to the process, for those who may, and closed where it is off."""

import re
from pathlib import Path

import pytest

from tests.chart.cases import CASES, FILES, Case
from tests.chart.pods import settings_of
from tests.chart.policies import Peer
from tests.chart.rendering import render
from tests.chart.switches import SWITCHES, Values, merge
from tests.chart.test_installation import notes
from tests.chart.test_policies import ELSEWHERE, INTERNET, KEDA, PROMETHEUS, STRANGER, Network

PORT = 8080
WEB = SWITCHES["web"]
TLS = SWITCHES["tls"]["secrets"]
ROUTE_FIELDS = {"parentRefs", "hostnames", "rules"}
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
def test_it_is_open_or_closed_everywhere(case: Case, tmp_path: Path) -> None:
    rendering, http = case.render(), case.all_values()["gateway"]["http"]
    workload = rendering.workload("gateway")
    settings = settings_of(rendering, workload, tmp_path)
    ports = {each["name"]: each["containerPort"] for each in workload.main["ports"]}
    (service,) = (each for each in rendering.of("gateway", "Service") if each["spec"].get("type"))
    served = {each["name"]: each for each in service["spec"]["ports"]}
    if not http["enabled"]:
        assert settings.http.port is None
        assert "http" not in {*ports, *served}
        return
    assert ports["http"] == settings.http.port == PORT
    assert settings.http.host in ("0.0.0.0", "::")
    assert (served["http"]["port"], served["http"]["targetPort"]) == (http["port"], "http")
    assert served["http"]["appProtocol"] == ("https" if settings.tls.certificate else "http")


@each_case
def test_who_reaches_it(case: Case) -> None:
    if not case.all_values()["networkPolicy"]["enabled"]:
        return
    network = Network(case.render())
    gateway, is_open = network.servers["gateway"], case.all_values()["gateway"]["http"]["enabled"]
    for client in (STRANGER, ELSEWHERE, INTERNET):
        assert network.opens(client, gateway, PORT) is is_open
    for component in ("stage", "decoder"):
        assert not network.may_open(STRANGER, network.servers[component], PORT)


def test_clients_that_are_named_are_the_only_ones() -> None:
    clients = [{"namespaceSelector": {"matchLabels": {"team": "video"}}}]
    keda = {"autoscaling": {"keda": {"enabled": True}}}
    network = Network(render(set={"networkPolicy": {"clients": clients}, **keda}))
    gateway = network.servers["gateway"]
    assert network.opens(Peer({"app": "player"}, "apps", {"team": "video"}), gateway, PORT)
    for other in (STRANGER, ELSEWHERE, INTERNET, KEDA, PROMETHEUS, gateway):
        assert not network.may_open(other, gateway, PORT)


def test_settings_of_its_own(tmp_path: Path) -> None:
    own = {"cors_origins": ["https://app.example"], "trusted_proxies": ["10.0.0.0/8", "fd00::/8"]}
    rendering = render(set={"gateway": {"settings": {"http": own}}})
    http = settings_of(rendering, rendering.workload("gateway"), tmp_path).http
    assert list(http.cors_origins) == own["cors_origins"]
    assert [str(each) for each in http.trusted_proxies] == own["trusted_proxies"]
    assert http.port == PORT


def test_ways_from_outside() -> None:
    """The kind of another project is checked for the fields that we know it needs."""
    tls = {"gateway": {"http": {"ingress": {"tlsSecretName": "page-tls", "className": "nginx"}}}}
    (ingress,) = render(set=merge(WEB["webingress"], tls)).all("Ingress")
    assert ingress["spec"]["tls"] == [{"hosts": ["page.example"], "secretName": "page-tls"}]
    assert ingress["spec"]["ingressClassName"] == "nginx"
    both = merge(WEB["webingress"], SWITCHES["edge"]["ingress"])
    names = [each["metadata"]["name"] for each in render(set=both).all("Ingress")]
    assert len(set(names)) == 2, "gRPC and the page need other annotations"
    (route,) = render(set=WEB["webroute"]).all("HTTPRoute")
    assert set(route["spec"]) == ROUTE_FIELDS
    assert route["spec"]["parentRefs"] == [{"name": "edge", "sectionName": "https"}]
    (rule,) = route["spec"]["rules"]
    assert rule == {"backendRefs": [{"name": "demo-gateway", "port": 80}]}


@pytest.mark.parametrize("case", FILES, ids=str)
def test_probes_and_scaling_are_as_without(case: Case) -> None:
    values = merge(case.values, WEB["nopage"])
    one, other = (render(*case.files, set=each) for each in (case.values, values))
    for kind in ("ScaledObject", "HorizontalPodAutoscaler", "PodDisruptionBudget"):
        assert one.all(kind) == other.all(kind)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert one.workload("gateway").main[name] == other.workload("gateway").main[name]


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
    text = notes(Case("page", (), values))
    assert f"  {address}" in text
    assert ("trusted_proxies" in text) is ("page.example" in text)
    assert not re.search(r"%!|<no value>", text)


def test_notes_warn_of_a_proxy_with_a_certificate() -> None:
    """By which everybody behind it would be let in."""
    mutual = merge(TLS, {"tls": {"gatewayRequiresClientCertificates": True}, "tests": {"enabled": False}})
    for values in (WEB["webingress"], WEB["webroute"]):
        assert "everybody's credential" in notes(Case("mutual", (), merge(mutual, values)))
        assert "everybody's credential" not in notes(Case("open", (), merge(TLS, values)))
    assert "everybody's credential" not in notes(Case("direct", (), mutual))


def test_notes_of_no_page() -> None:
    assert "browser" not in notes(Case("nopage", (), WEB["nopage"]))
