"""The blocks of code in the documents, and those that no test can run, each with its reason.

A block in a fence `sh` is run by `tests/services/client/test_documents.py`, in the order of the document.
Blocks in other languages have tests of their own. All others stand here by how they begin: there is no third
kind.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.paths import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted(ROOT.glob("*/README.md")),
    ROOT / "helm/cascade/README.md",
]
RUN = ("README.md", "docs/services.md", "docs/clients.md")
"""What has `sh` blocks, in the order in which a reader meets them."""
TESTED = {
    ("docs/clients.md", "python"): "tests/services/client/test_guide.py",
    ("docs/clients.md", "js"): "tests/browser/test_client_guide.py",
    ("docs/engine.md", "python"): "tests/distributed/test_engine_guide.py",
    ("docs/engine.md", "toml"): "tests/unit/test_cards.py",
    ("docs/kubernetes.md", "yaml"): "tests/chart/test_guide.py",
    ("docs/production.md", "console"): "tests/unit/test_plan_guide.py",
    ("docs/production.md", "nginx"): "tests/services/system/test_behind_proxies.py",
    ("cascade_client/README.md", "python"): "tests/services/client/test_guide.py",
    ("cascade_core/README.md", "python"): "tests/distributed/test_engine_guide.py",
}
"""By document and language."""
CLUSTER = "needs a cluster; tests/chart runs what helm and kubectl can do without"
DOCKER = "needs docker; tests/chart/test_images.py compares it with the Dockerfile"
SHOWN = "shown, not typed"
UNRELEASED = "needs a release on PyPI"
LONG = "minutes or hours"
ELSEWHERE = {
    "docs/clients.md": {
        "pip install cascade-client": UNRELEASED,
        "pip install 'cascade-client[push]'": UNRELEASED + "; tests/services/client/test_push.py",
        "buf generate proto/released.binpb": "needs another language's plugin; test_guide.py makes Python's",
        "cd examples/node": "tests/services/client/test_node_example.py",
        '{"type": "urn:cascade:reason': SHOWN,
    },
    "docs/demo.md": {
        "make train-demo": LONG,
        "python -m demo_world.train": LONG,
        "python -m demo_world.evaluate": LONG,
    },
    "docs/engine.md": {"pip install cascade-video": UNRELEASED},
    "docs/kubernetes.md": {
        "clients --> Service": SHOWN,
        "kubectl get nodes": CLUSTER,
        "helm upgrade --install cascade helm/cascade": CLUSTER,
        "helm upgrade --install cascade oci:": CLUSTER,
        "kubectl --namespace video port-forward": CLUSTER,
        "desired = pods": SHOWN,
        "kubectl drain NODE": CLUSTER,
        "POD_IP=": CLUSTER,
        "kubectl --namespace video get events": CLUSTER,
    },
    "docs/services.md": {"client  <====": SHOWN, "python -m benchmarks.chaos": LONG},
    "CONTRIBUTING.md": {"make check": LONG},
    "SECURITY.md": {"cosign verify": "needs a release"},
    "cascade_client/README.md": {"pip install cascade-client": UNRELEASED},
    "cascade_core/README.md": {"pip install cascade-video": UNRELEASED},
    "helm/cascade/README.md": {"helm install cascade": CLUSTER},
    "images/README.md": {"docker build": DOCKER, "docker network": DOCKER, "make images-check": LONG},
    "k8s/README.md": {"docker build": DOCKER},
}
DRAWN = ("mermaid",)
INDENTED = re.compile(r"(?:\A|\n)\n((?: {4,}\S.*\n?)+(?:\n* {4,}\S.*\n?)*)")


@dataclass(frozen=True)
class Block:
    document: str
    language: str
    """Empty: none, or indented."""
    text: str


def blocks() -> Iterator[Block]:
    """Of all documents; in each the fenced ones first, then the indented."""
    for path in DOCUMENTS:
        name, text = str(path.relative_to(ROOT)), path.read_text()
        for language, code in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
            if language not in DRAWN:
                yield Block(name, language, code)
        for code in INDENTED.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            yield Block(name, "", code)


def commands(document: str) -> list[str]:
    """Its `sh` blocks."""
    return [block.text for block in blocks() if (block.document, block.language) == (document, "sh")]


def reason(block: Block) -> str | None:
    """Why no test runs it, or which does. None: nobody has said."""
    if block.language == "sh":
        return "run" if block.document in RUN else None
    if block.language:
        return TESTED.get((block.document, block.language))
    listed = ELSEWHERE.get(block.document, {})
    return next((why for start, why in listed.items() if block.text.lstrip().startswith(start)), None)
