"""Who reaches whom: each way that the system needs is open, and the others are not."""

import functools

from tests.chart.installation import Installation, Property, everywhere
from tests.chart.network import (
    API_SERVER,
    DNS,
    ELSEWHERE,
    GRPC,
    INTERNET,
    KEDA,
    METRICS,
    PROMETHEUS,
    REDIS,
    STRANGER,
)


def where_enforced(function: Property) -> Property:
    """Of every installation that has policies."""

    @functools.wraps(function)
    def check(its: Installation) -> None:
        if its.values["networkPolicy"]["enabled"]:
            function(its)

    return everywhere(check)


@where_enforced
def sessions_flow(its: Installation) -> None:
    network = its.network
    gateway = network.servers["gateway"]
    for component, port in GRPC.items():
        assert network.opens(gateway, network.servers[component], port), f"gateway to {component}"
    for client in (STRANGER, ELSEWHERE, INTERNET):
        assert network.opens(client, gateway, GRPC["gateway"]), f"client {client} to gateway"


@where_enforced
def gateways_reach_names_and_the_api(its: Installation) -> None:
    network = its.network
    gateway = network.servers["gateway"]
    for protocol in ("UDP", "TCP"):
        assert network.opens(gateway, DNS, 53, protocol)
    for port in (443, 6443):
        assert network.opens(gateway, API_SERVER, port)


@where_enforced
def the_cluster_reaches_what_it_watches(its: Installation) -> None:
    network = its.network
    assert network.opens(KEDA, network.servers["gateway"], GRPC["gateway"])
    for component in GRPC:
        assert network.opens(PROMETHEUS, network.servers[component], METRICS)


@where_enforced
def redis_is_for_gateways(its: Installation) -> None:
    network = its.network
    gateway, redis = network.servers["gateway"], network.servers.get("redis")
    if not its.values["redis"]["enabled"]:
        assert redis is None
        return
    assert redis is not None
    assert network.opens(gateway, redis, REDIS)
    for other in (network.servers["stage"], network.servers["decoder"], STRANGER, ELSEWHERE, PROMETHEUS):
        assert not network.may_open(other, redis, REDIS)
    for target, port in ((API_SERVER, 443), (INTERNET, 80), (gateway, GRPC["gateway"])):
        assert not network.may_open(redis, target, port)


@where_enforced
def hooks_reach_what_they_are_for(its: Installation) -> None:
    """The test pod calls the gateway; the download Job reaches names and the hub."""
    network = its.network
    for name, pod in network.pods.items():
        if name.endswith("-test"):
            assert network.opens(pod, network.servers["gateway"], GRPC["gateway"])
            assert network.opens(pod, DNS, 53, "UDP")
        if "download" in name or name.endswith("-weights"):
            assert network.opens(pod, DNS, 53, "UDP")
            assert network.opens(pod, INTERNET, 443)


@where_enforced
def stages_and_decoders_answer_gateways_alone(its: Installation) -> None:
    network = its.network
    for component in ("stage", "decoder"):
        target = network.servers[component]
        others = [STRANGER, ELSEWHERE, PROMETHEUS, KEDA, INTERNET]
        others += [pod for name, pod in network.pods.items() if pod is not network.servers["gateway"]]
        for other in others:
            if other != network.servers["gateway"]:
                assert not network.may_open(other, target, GRPC[component]), f"{other} to {component}"


@where_enforced
def stages_and_decoders_call_nobody(its: Installation) -> None:
    """But names and the collector of traces, where there is one."""
    network = its.network
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


@where_enforced
def metrics_are_for_the_monitoring_alone(its: Installation) -> None:
    network = its.network
    for component in GRPC:
        for other in (STRANGER, ELSEWHERE, KEDA, INTERNET):
            assert not network.may_open(other, network.servers[component], METRICS)
        assert not network.may_open(PROMETHEUS, network.servers["stage"], GRPC["stage"])


@where_enforced
def gateways_call_nobody_else(its: Installation) -> None:
    network = its.network
    gateway = network.servers["gateway"]
    for target, port in ((INTERNET, 80), (STRANGER, 8080), (ELSEWHERE, 22), (DNS, 8080)):
        assert not network.may_open(gateway, target, port), f"gateway to {target}:{port}"
