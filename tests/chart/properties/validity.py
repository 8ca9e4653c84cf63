"""Everything that helm renders is what Kubernetes takes, in its oldest and newest minors."""

import re
from collections import Counter
from collections.abc import Iterator

from tests.chart.installation import Installation, everywhere
from tests.chart.rendering import Document, Rendering
from tests.chart.schemas import VERSIONS, complaints

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
HOST = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
PORT = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
ONE_LABEL = ("Service", "Deployment", "Job", "Pod")
"""Kinds whose name becomes a host name or a label's value: at most 63 characters."""


@everywhere
def kubernetes_takes_it(its: Installation) -> None:
    """As rendered for the oldest, and for the newest, which is the same as for those between."""
    oldest = its.case.render(VERSIONS[0])
    sent = dict.fromkeys(VERSIONS, its.rendering) | {VERSIONS[0]: oldest}
    wrong = [f"Kubernetes {each}: {text}" for each in sent for text in faults(sent[each], each)]
    assert not wrong, "\n".join(wrong)


def faults(rendering: Rendering, version: str) -> Iterator[str]:
    """What the API server of that version would refuse, of all documents."""
    for document in rendering.documents:
        yield from complaints(document, version)
        yield from odd_metadata(document)
    for each in rendering.workloads():
        yield from odd_pod(each.spec, each.claims, each.name)
    names = Counter((each["kind"], each["metadata"]["name"]) for each in rendering.documents)
    yield from (f"{'/'.join(name)} is there {count} times" for name, count in names.items() if count > 1)


def odd_metadata(document: Document) -> Iterator[str]:
    metadata = document["metadata"]
    name = f"{document['kind']}/{metadata['name']}"
    longest = 63 if document["kind"] in ONE_LABEL else 253
    pattern = HOST if document["kind"] == "Service" else NAME
    if not pattern.fullmatch(metadata["name"]) or len(metadata["name"]) > longest:
        yield f"{name}: not a name"
    for key, value in (metadata.get("labels") or {}).items():
        if not LABEL.fullmatch(value):
            yield f"{name}: label {key}: {value}"
    for key, value in (metadata.get("annotations") or {}).items():
        if not isinstance(value, str):
            yield f"{name}: annotation {key} is no string"


def odd_pod(spec: Document, claimed: list[str], name: str) -> Iterator[str]:
    """What the API server checks and its schema does not say."""
    containers = [*spec.get("initContainers", ()), *spec["containers"]]
    volumes = Counter([*claimed, *(each["name"] for each in spec.get("volumes") or ())])
    names = Counter(each["name"] for each in containers)
    yield from (f"{name}: {each} twice" for each, count in (volumes + names).items() if count > 1)
    mounted = {each["name"] for container in containers for each in container.get("volumeMounts") or ()}
    yield from (f"{name}: no volume {each}" for each in mounted - set(volumes))
    yield from (f"{name}: volume {each} is mounted nowhere" for each in set(volumes) - mounted)
    claims = {each["name"] for each in spec.get("resourceClaims") or ()}
    for container in containers:
        yield from odd_container(container, f"{name}/{container['name']}", claims)


def odd_container(container: Document, name: str, claims: set[str]) -> Iterator[str]:
    lists = {
        "env": [each["name"] for each in container.get("env") or ()],
        "volumeMounts": [each["mountPath"] for each in container.get("volumeMounts") or ()],
        "ports": [each["name"] for each in container.get("ports") or ()],
    }
    for what, found in lists.items():
        yield from (f"{name}: {what} {each} twice" for each, count in Counter(found).items() if count > 1)
    yield from (f"{name}: port {each}" for each in lists["ports"] if not PORT.fullmatch(each))
    for each in container.get("env") or ():
        if "value" in each and "valueFrom" in each:
            yield f"{name}: {each['name']} has a value twice"
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for what, value in (*requests.items(), *limits.items()):
        if not QUANTITY.fullmatch(str(value)):
            yield f"{name}: {what}: {value}"
    for what, value in requests.items():
        if what in limits and amount(value) > amount(limits[what]):
            yield f"{name}: asks for more {what} than its limit"
        if "/" in what and limits.get(what) != value:
            yield f"{name}: {what} must be alike in requests and limits"
    yield from (
        f"{name}: no claim {each['name']}"
        for each in resources.get("claims") or ()
        if each["name"] not in claims
    )


def amount(quantity: str | int) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", str(quantity)).groups()
    units = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    units |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(number) * units[unit]
