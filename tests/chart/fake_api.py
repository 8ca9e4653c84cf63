"""A Kubernetes API server as far as `helm template --dry-run=server` asks: discovery, and objects by name."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Document = dict[str, Any]
KINDS = {
    "v1": ("Pod", "Service", "Secret", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "batch/v1": ("Job",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
}
IRREGULAR = {"NetworkPolicy": "networkpolicies"}


def plural(kind: str) -> str:
    return IRREGULAR.get(kind, f"{kind.lower()}s")


@contextlib.contextmanager
def serving(objects: Sequence[Document], kubeconfig: Path) -> Iterator[list[str]]:
    """Serves on loopback while the block lasts; gives the paths asked for. Writes `kubeconfig`."""
    asked: list[str] = []
    answers = dict(discovery()) | {path_of(each): each for each in objects}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            found = answers.get(path)
            body = json.dumps(found or not_found(path)).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kubeconfig.write_text(json.dumps(config(f"http://127.0.0.1:{server.server_port}")))
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def discovery() -> Iterator[tuple[str, Document]]:
    yield "/version", {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
    yield "/api", {"kind": "APIVersions", "versions": ["v1"]}
    groups = [
        {"name": name, "versions": [version], "preferredVersion": version}
        for name, version in (
            (api.partition("/")[0], {"groupVersion": api, "version": "v1"}) for api in KINDS if "/" in api
        )
    ]
    yield "/apis", {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    for api, kinds in KINDS.items():
        resources = [
            {"name": plural(kind), "kind": kind, "namespaced": True, "verbs": ["get"], "singularName": ""}
            for kind in kinds
        ]
        yield root(api), {"kind": "APIResourceList", "groupVersion": api, "resources": resources}


def path_of(document: Mapping[str, Any]) -> str:
    metadata = document["metadata"]
    prefix = f"{root(document['apiVersion'])}/namespaces/{metadata['namespace']}"
    return f"{prefix}/{plural(document['kind'])}/{metadata['name']}"


def root(api: str) -> str:
    return f"/apis/{api}" if "/" in api else f"/api/{api}"


def not_found(path: str) -> Document:
    failure = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
    return {**failure, "message": f"{path} not found"}


def config(url: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "current-context": "fake",
    }
