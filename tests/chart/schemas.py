"""Manifests against the API's own schemas, by `kubernetes-validate`, whose parsed schemas are kept."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import all_versions
from referencing import Registry, Resource

SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
NEWEST = sorted({tuple(map(int, each.split(".")[:2])) for each in all_versions()})[-2:]
VERSIONS = ["1.34", *(f"{major}.{minor}" for major, minor in NEWEST)]
"""The oldest with DRA as a stable API, and the newest two that are known."""
CUSTOM = {
    ("cert-manager.io/v1", "Certificate"),
    ("cert-manager.io/v1", "Issuer"),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("keda.sh/v1alpha1", "TriggerAuthentication"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
}
"""Kinds of other projects, of which Kubernetes has no schema."""


def complaints(document: dict[str, Any], version: str) -> list[str]:
    """What a Kubernetes of that minor would refuse; unknown fields are refused too."""
    if (document["apiVersion"], document["kind"]) in CUSTOM:
        return []
    return list(complaints_about(json.dumps(document), version))


@functools.cache
def complaints_about(text: str, version: str) -> tuple[str, ...]:
    """By the document's JSON: most are alike in many installations."""
    document = json.loads(text)
    kind, api = document["kind"], document["apiVersion"]
    name = f"{kind}/{document['metadata']['name']}"
    validator = schema(kind, api, version)
    if validator is None:
        return (f"{name}: Kubernetes {version} has no {api} {kind}",)
    found = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.path)))
    return tuple(f"{name} {'.'.join(map(str, error.path))}: {error.message[:200]}" for error in found)


@functools.cache
def schema(kind: str, api: str, version: str) -> Draft202012Validator | None:
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    path = folder(version) / f"{kind.lower()}-{group}.json"
    if not path.is_file():
        return None
    return Draft202012Validator(json.loads(path.read_text()), registry=definitions(version))


@functools.cache
def definitions(version: str) -> Registry:
    resource = Resource.from_contents(json.loads((folder(version) / "_definitions.json").read_text()))
    return resource @ Registry()


def folder(version: str) -> Path:
    return SCHEMAS / f"v{version}.0-local-strict"
