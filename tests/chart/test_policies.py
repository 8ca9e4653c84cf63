"""Who reaches whom: each way that the system needs is open, and the others are not."""

import dataclasses

import pytest

from tests.chart.cases import CASES, Case
from tests.chart.policies import Peer, admits
from tests.chart.rendering import NAMESPACE, Document, Rendering, Workload, render

GRPC = {"stage": 50061, "decoder": 50071, "gateway": 50051}
METRICS = 9090
REDIS = 6379
POD_IP = "10.1.2.3"
STRANGER = Peer({"app": "stranger"}, NAMESPACE)
ELSEWHERE = Peer({"app": "stranger"}, "elsewhere")
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, "monitoring")
KEDA = Peer({"app": "keda-operator"}, "keda")
DNS = Peer({"k8s-app": "kube-dns"}, "kube-system", ports={"dns": 53, "dns-tcp": 53})
API_SERVER = Peer(ip="172.20.0.1")
INTERNET = Peer(ip="93.184.216.34")

WITH_POLICIES = [each for each in CASES if each.all_values()["networkPolicy"]["enabled"]]
each_case = pytest.mark.parametrize("case", WITH_POLICIES, ids=str)


class Network:
    """The pods of an installation and who may open which connection."""

    def __init__(self, rendering: Rendering) -> None:
        self.policies = [with_namespace(each) for each in rendering.all("NetworkPolicy")]
        self.pods = {each.name: peer(each) for each in rendering.workloads()}
        self.servers = {each.component: peer(each) for each in rendering.deployments()}
        for each in rendering.all("StatefulSet"):
            self.servers |= {w.component: peer(w) for w in rendering.workloads() if w.document is each}

    def opens(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
        """By selectors alone, which all network plug-ins understand alike."""
        return admits(self.policies, source, target, port, protocol)

    def may_open(self, source: Peer, target: Peer, port: int) -> bool:
        """In the most generous reading: address blocks cover pods too."""
        return admits(self.policies, placed(source), placed(target), port)


def with_namespace(policy: Document) -> Document:
    return {**policy, "metadata": {"namespace": NAMESPACE, **policy["metadata"]}}


def peer(workload: Workload) -> Peer:
    ports = {
        each["name"]: each["containerPort"]
        for container in workload.containers
        for each in container.get("ports") or ()
    }
    return Peer(workload.labels, NAMESPACE, ports=ports)


def placed(end: Peer) -> Peer:
    return end if end.ip else dataclasses.replace(end, ip=POD_IP)


@each_case
def test_sessions_flow(case: Case) -> None:
    network = Network(case.render())
    gateway = network.servers["gateway"]
    for component, port in GRPC.items():
        assert network.opens(gateway, network.servers[component], port), f"gateway to {component}"
    for client in (STRANGER, ELSEWHERE, INTERNET):
        assert network.opens(client, gateway, GRPC["gateway"]), f"client {client} to gateway"


@each_case
def test_gateways_reach_names_and_the_api(case: Case) -> None:
    network = Network(case.render())
    gateway = network.servers["gateway"]
    for protocol in ("UDP", "TCP"):
        assert network.opens(gateway, DNS, 53, protocol)
    for port in (443, 6443):
        assert network.opens(gateway, API_SERVER, port)


@each_case
def test_the_cluster_reaches_what_it_watches(case: Case) -> None:
    network = Network(case.render())
    assert network.opens(KEDA, network.servers["gateway"], GRPC["gateway"])
    for component in GRPC:
        assert network.opens(PROMETHEUS, network.servers[component], METRICS)


@each_case
def test_redis_is_for_gateways(case: Case) -> None:
    rendering = case.render()
    network = Network(rendering)
    gateway, redis = network.servers["gateway"], network.servers.get("redis")
    if not case.all_values()["redis"]["enabled"]:
        assert redis is None
        return
    assert redis is not None
    assert network.opens(gateway, redis, REDIS)
    for other in (network.servers["stage"], network.servers["decoder"], STRANGER, ELSEWHERE, PROMETHEUS):
        assert not network.may_open(other, redis, REDIS)
    for target, port in ((API_SERVER, 443), (INTERNET, 80), (gateway, GRPC["gateway"])):
        assert not network.may_open(redis, target, port)


@each_case
def test_hooks_reach_what_they_are_for(case: Case) -> None:
    """The test pod calls the gateway; the download Job reaches names and the hub."""
    network = Network(case.render())
    for name, pod in network.pods.items():
        if name.endswith("-test"):
            assert network.opens(pod, network.servers["gateway"], GRPC["gateway"])
            assert network.opens(pod, DNS, 53, "UDP")
        if "download" in name or name.endswith("-weights"):
            assert network.opens(pod, DNS, 53, "UDP")
            assert network.opens(pod, INTERNET, 443)


@each_case
def test_stages_and_decoders_answer_gateways_alone(case: Case) -> None:
    network = Network(case.render())
    for component in ("stage", "decoder"):
        target = network.servers[component]
        others = [STRANGER, ELSEWHERE, PROMETHEUS, KEDA, INTERNET]
        others += [pod for name, pod in network.pods.items() if pod is not network.servers["gateway"]]
        for other in others:
            if other != network.servers["gateway"]:
                assert not network.may_open(other, target, GRPC[component]), f"{other} to {component}"


@each_case
def test_stages_and_decoders_call_nobody(case: Case) -> None:
    """But names and the collector of traces, where there is one."""
    network = Network(case.render())
    for component in ("stage", "decoder"):
        source = network.servers[component]
        for target, port in (
            (API_SERVER, 443),
            (API_SERVER, 6443),
            (INTERNET, 443),
            (INTERNET, 80),
            (STRANGER, 8080),
            (network.servers["gateway"], GRPC["gateway"]),
        ):
            assert not network.may_open(source, target, port), f"{component} to {target}:{port}"


@each_case
def test_metrics_are_for_the_monitoring_alone(case: Case) -> None:
    network = Network(case.render())
    for component in GRPC:
        for other in (STRANGER, ELSEWHERE, KEDA, INTERNET):
            assert not network.may_open(other, network.servers[component], METRICS)
        assert not network.may_open(PROMETHEUS, network.servers["stage"], GRPC["stage"])


@each_case
def test_gateways_call_nobody_else(case: Case) -> None:
    network = Network(case.render())
    gateway = network.servers["gateway"]
    for target, port in ((INTERNET, 80), (STRANGER, 8080), (ELSEWHERE, 22), (DNS, 8080)):
        assert not network.may_open(gateway, target, port), f"gateway to {target}:{port}"


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
