"""Whether NetworkPolicies let one pod reach another, by the rules of networking.k8s.io/v1."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Peer:
    """An end of a connection: a pod, or an address outside where `labels` is None."""

    labels: Mapping[str, str] | None = None
    namespace: str = "default"
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    """Beside `kubernetes.io/metadata.name`, which every namespace has."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Named ports of its containers."""
    ip: str | None = None
    """None: no `ipBlock` admits it. Network plug-ins disagree on whether such a block covers pods, so what
    has to pass is asked without an address, and what must not pass with one."""


def admits(policies: Sequence[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the source may open a connection to the target's port."""
    leaves = allows(policies, "Egress", source, target, port, protocol, target.ports)
    return leaves and allows(policies, "Ingress", target, source, port, protocol, target.ports)


def allows(
    policies: Sequence[Policy],
    way: str,
    subject: Peer,
    other: Peer,
    port: int,
    protocol: str,
    names: Mapping[str, int],
) -> bool:
    """One side of it. A pod that no policy of this way selects is open."""
    if subject.labels is None:
        return True
    own = [each for each in policies if way in ways(each) and covers(each, subject)]
    if not own:
        return True
    rules = [(each, rule) for each in own for rule in each["spec"].get(way.lower()) or ()]
    ends = "from" if way == "Ingress" else "to"
    return any(
        has_peer(rule.get(ends), other, policy["metadata"]["namespace"])
        and has_port(rule.get("ports"), port, protocol, names)
        for policy, rule in rules
    )


def ways(policy: Policy) -> Sequence[str]:
    spec = policy["spec"]
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]


def covers(policy: Policy, pod: Peer) -> bool:
    assert pod.labels is not None
    same = policy["metadata"]["namespace"] == pod.namespace
    return same and selects(policy["spec"].get("podSelector") or {}, pod.labels)


def has_peer(peers: Sequence[Mapping[str, Any]] | None, other: Peer, namespace: str) -> bool:
    """No list and an empty one: everybody."""
    return not peers or any(is_peer(each, other, namespace) for each in peers)


def is_peer(peer: Mapping[str, Any], other: Peer, namespace: str) -> bool:
    if "ipBlock" in peer:
        return other.ip is not None and in_block(peer["ipBlock"], other.ip)
    if other.labels is None:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": other.namespace, **other.namespace_labels}
        is_near = selects(peer["namespaceSelector"] or {}, labels)
    else:
        is_near = other.namespace == namespace
    return is_near and selects(peer.get("podSelector") or {}, other.labels)


def in_block(block: Mapping[str, Any], ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    inside = address in ipaddress.ip_network(block["cidr"])
    return inside and not any(address in ipaddress.ip_network(each) for each in block.get("except") or ())


def has_port(
    ports: Sequence[Mapping[str, Any]] | None, port: int, protocol: str, names: Mapping[str, int]
) -> bool:
    """No list and an empty one: every port."""
    return not ports or any(is_port(each, port, protocol, names) for each in ports)


def is_port(rule: Mapping[str, Any], port: int, protocol: str, names: Mapping[str, int]) -> bool:
    if rule.get("protocol", "TCP") != protocol:
        return False
    first = rule.get("port")
    if first is None:
        return True
    number = names.get(first) if isinstance(first, str) else first
    return number is not None and number <= port <= rule.get("endPort", number)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """A label selector; the empty one selects everything."""
    exact = (selector.get("matchLabels") or {}).items() <= dict(labels).items()
    return exact and all(satisfies(each, labels) for each in selector.get("matchExpressions") or ())


def satisfies(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(f"no such operator: {expression['operator']}")
