"""The page's ways from outside, and values of its own; see also properties/page.py."""

from pathlib import Path

import pytest

from tests.chart.cases import FILES, Case
from tests.chart.network import ELSEWHERE, HTTP, INTERNET, KEDA, PROMETHEUS, STRANGER, Network
from tests.chart.pods import settings_of
from tests.chart.policies import Peer
from tests.chart.rendering import render
from tests.chart.switches import SWITCHES, merge

WEB = SWITCHES["web"]
ROUTE_FIELDS = {"parentRefs", "hostnames", "rules"}


def test_clients_that_are_named_are_the_only_ones() -> None:
    clients = [{"namespaceSelector": {"matchLabels": {"team": "video"}}}]
    keda = {"autoscaling": {"keda": {"enabled": True}}}
    network = Network(render(set={"networkPolicy": {"clients": clients}, **keda}))
    gateway = network.servers["gateway"]
    assert network.opens(Peer({"app": "player"}, "apps", {"team": "video"}), gateway, HTTP)
    for other in (STRANGER, ELSEWHERE, INTERNET, KEDA, PROMETHEUS, gateway):
        assert not network.may_open(other, gateway, HTTP)


def test_settings_of_its_own(tmp_path: Path) -> None:
    own = {"cors_origins": ["https://app.example"], "trusted_proxies": ["10.0.0.0/8", "fd00::/8"]}
    rendering = render(set={"gateway": {"settings": {"http": own}}})
    http = settings_of(rendering, rendering.workload("gateway"), tmp_path).http
    assert list(http.cors_origins) == own["cors_origins"]
    assert [str(each) for each in http.trusted_proxies] == own["trusted_proxies"]
    assert http.port == HTTP


def test_video_by_webrtc(tmp_path: Path) -> None:
    """Each player takes a port, so the settings have as many players as there are."""
    own = {
        "enabled": True,
        "firstPort": 50200,
        "lastPort": 50207,
        "publicAddress": "192.0.2.7",
    }
    told = {"webrtc_ice_servers": ["stun:stun.example:3478"]}
    rendering = render(set={"gateway": {"http": {"webrtc": own}, "settings": {"http": told}}})
    workload = rendering.workload("gateway")
    http = settings_of(rendering, workload, tmp_path).http
    assert http.webrtc
    assert (http.webrtc_first_port, http.webrtc_last_port, http.webrtc_max_players) == (50200, 50207, 8)
    assert str(http.webrtc_public_address) == "192.0.2.7"
    assert list(http.webrtc_ice_servers) == told["webrtc_ice_servers"]
    assert not any("hostPort" in each for each in workload.main["ports"])


def test_video_by_webrtc_at_the_nodes_address() -> None:
    own = {"enabled": True, "lastPort": 50102, "hostPorts": True}
    workload = render(set={"gateway": {"http": {"webrtc": own}}}).workload("gateway")
    ports = {each["hostPort"]: each["protocol"] for each in workload.main["ports"] if "hostPort" in each}
    assert ports == dict.fromkeys((50100, 50101, 50102), "UDP")
    name = "CASCADE_HTTP_WEBRTC_PUBLIC_ADDRESS"
    (address,) = (each for each in workload.main["env"] if each["name"] == name)
    assert address["valueFrom"] == {"fieldRef": {"fieldPath": "status.hostIP"}}


def test_passwords_of_a_turn_server_stay_in_their_secret() -> None:
    own = {"enabled": True, "iceServers": {"existingSecret": "turn"}}
    workload = render(set={"gateway": {"http": {"webrtc": own}}}).workload("gateway")
    name = "CASCADE_HTTP_WEBRTC_ICE_SERVERS"
    (servers,) = (each for each in workload.main["env"] if each["name"] == name)
    assert servers["valueFrom"] == {"secretKeyRef": {"name": "turn", "key": "ice-servers"}}


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
