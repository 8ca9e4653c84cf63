"""NetworkPolicies by values of their own, and the oracle that reads them; see also properties/policies.py."""

import dataclasses

from tests.chart.network import DNS, ELSEWHERE, GRPC, INTERNET, KEDA, STRANGER, Network
from tests.chart.policies import Peer, admits
from tests.chart.rendering import Document, render


def test_clients_can_be_named() -> None:
    clients = [{"namespaceSelector": {"matchLabels": {"team": "video"}}}]
    keda = {"autoscaling": {"keda": {"enabled": True}}}
    network = Network(render(set={"networkPolicy": {"clients": clients}, **keda}))
    gateway = network.servers["gateway"]
    app = Peer({"app": "player"}, "apps", {"team": "video"})
    assert network.opens(app, gateway, GRPC["gateway"])
    assert network.opens(KEDA, gateway, GRPC["gateway"])
    assert network.opens(gateway, gateway, GRPC["gateway"]), "gateways forward to each other"
    for other in (STRANGER, ELSEWHERE, INTERNET):
        assert not network.may_open(other, gateway, GRPC["gateway"])
    without = Network(render(set={"networkPolicy": {"clients": clients}}))
    assert not without.may_open(KEDA, without.servers["gateway"], GRPC["gateway"])


def test_traces_reach_their_collector() -> None:
    collector = Peer({"app": "otel-collector"}, "observability")
    there = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}]
    traced = {
        "telemetry": {"otlpEndpoint": "http://otel-collector.observability:4317"},
        "networkPolicy": {"otlp": there},
    }
    network = Network(render(set=traced))
    for component in GRPC:
        assert network.opens(network.servers[component], collector, 4317)
        assert network.opens(network.servers[component], DNS, 53, "UDP")
    assert not network.may_open(network.servers["stage"], STRANGER, 4317)


def test_without_policies_there_are_none() -> None:
    off = {"networkPolicy": {"enabled": False}, "redis": {"enabled": True}}
    assert not render(set=off).all("NetworkPolicy")


class TestTheEvaluator:
    """It is an oracle, so it is tried on its own."""

    web = Peer({"app": "web"}, "a", ports={"http": 8080})
    batch = Peer({"app": "batch"}, "b")

    def policy(self, **spec: object) -> Document:
        return {"metadata": {"namespace": "a"}, "spec": {"podSelector": {}, **spec}}

    def test_no_policy_admits_all(self) -> None:
        assert admits([], self.batch, self.web, 1)

    def test_a_policy_without_rules_admits_none(self) -> None:
        assert not admits([self.policy()], self.batch, self.web, 8080)
        assert not admits([self.policy(policyTypes=["Egress"])], self.web, self.batch, 8080)
        assert admits([self.policy(policyTypes=["Egress"])], self.batch, self.web, 8080)

    def test_an_empty_rule_admits_all(self) -> None:
        assert admits([self.policy(ingress=[{}])], self.batch, self.web, 8080)

    def test_policies_add_up(self) -> None:
        assert admits([self.policy(), self.policy(ingress=[{}])], self.batch, self.web, 8080)

    def test_other_namespaces_are_not_meant(self) -> None:
        near = self.policy(ingress=[{"from": [{"podSelector": {}}]}])
        far = self.policy(ingress=[{"from": [{"namespaceSelector": {}, "podSelector": {}}]}])
        assert not admits([near], self.batch, self.web, 8080)
        assert admits([far], self.batch, self.web, 8080)
        assert admits([near], dataclasses.replace(self.batch, namespace="a"), self.web, 8080)

    def test_ports_by_name_and_range(self) -> None:
        named = self.policy(ingress=[{"ports": [{"port": "http"}]}])
        ranged = self.policy(ingress=[{"ports": [{"port": 8000, "endPort": 8100}]}])
        for policy in (named, ranged):
            assert admits([policy], self.batch, self.web, 8080)
            assert not admits([policy], self.batch, self.web, 9090)
            assert not admits([policy], self.batch, self.web, 8080, "UDP")

    def test_blocks_and_their_exceptions(self) -> None:
        block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}}
        policy = self.policy(ingress=[{"from": [block]}])
        assert admits([policy], Peer(ip="10.1.0.1"), self.web, 1)
        assert not admits([policy], Peer(ip="10.9.0.1"), self.web, 1)
        assert not admits([policy], self.batch, self.web, 1)

    def test_expressions(self) -> None:
        for operator, values, is_met in (
            ("In", ["batch"], True),
            ("NotIn", ["batch"], False),
            ("Exists", [], True),
            ("DoesNotExist", [], False),
        ):
            expression = {"key": "app", "operator": operator, "values": values}
            peers = [{"namespaceSelector": {}, "podSelector": {"matchExpressions": [expression]}}]
            assert admits([self.policy(ingress=[{"from": peers}])], self.batch, self.web, 1) is is_met
