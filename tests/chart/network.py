"""Who may connect to whom in an installation, and those outside it."""

import dataclasses

from tests.chart.policies import Peer, admits
from tests.chart.rendering import NAMESPACE, Document, Rendering, Workload

GRPC = {"stage": 50061, "decoder": 50071, "gateway": 50051}
HTTP = 8080
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
