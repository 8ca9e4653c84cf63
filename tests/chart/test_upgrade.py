"""What an upgrade finds in the cluster it keeps: real helm asks a server that has what was installed.

Without a cluster nobody can show that the API server takes the upgrade; that the same Secret is sent again is
what can be shown.
"""

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.chart import fake_api
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, Document, Rendering, helm, parse, render
from tests.chart.switches import MODEL

DOWNLOAD = {**MODEL, "weights": {"source": "download"}}
ARGO_CD = {**MODEL, "weights": {"source": "download", "download": {"argoCD": True}}}
VALUES = {"redis": {"enabled": True}, "peerAuth": {"enabled": True}}
OWNED = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE}


def installed(document: Document) -> Document:
    """As the cluster holds it after `helm install`."""
    document = copy.deepcopy(document)
    document["metadata"]["namespace"] = NAMESPACE
    document["metadata"]["annotations"] = {**document["metadata"].get("annotations", {}), **OWNED}
    return document


def upgrade(values: dict[str, Any], objects: list[Document], folder: Path) -> tuple[Rendering, list[str]]:
    """(what an upgrade sends, the paths that helm asked for)."""
    kubeconfig = folder / "kubeconfig"
    flags = ("--namespace", NAMESPACE, "--dry-run=server", "--disable-openapi-validation", "--is-upgrade")
    with fake_api.serving(objects, kubeconfig) as asked:
        command = ("template", RELEASE, str(CHART), *flags, "--values", "-")
        done = helm(*command, stdin=json.dumps(values), kubeconfig=kubeconfig)
    assert done.returncode == 0, done.stderr
    return parse(done.stdout), asked


def test_generated_secrets_are_kept(tmp_path: Path) -> None:
    before = render(set=VALUES)
    secrets = {each["metadata"]["name"]: each for each in before.all("Secret")}
    assert len(secrets) == 3
    after, asked = upgrade(VALUES, [installed(each) for each in secrets.values()], tmp_path)
    for name, document in secrets.items():
        assert f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}" in asked
        assert after.one("Secret", name)["data"] == document["data"]


def test_a_cluster_without_them_gets_new_ones(tmp_path: Path) -> None:
    """The server above is really asked."""
    before = render(set=VALUES)
    after, _ = upgrade(VALUES, [], tmp_path)
    for document in before.all("Secret"):
        assert after.one("Secret", document["metadata"]["name"])["data"] != document["data"]


def test_a_key_of_another_name_is_made_beside_it(tmp_path: Path) -> None:
    """A Secret that lacks the key gets it; what it had is not taken for it."""
    name = render().all("Secret")[0]["metadata"]["name"]
    strange = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": render().all("Secret")[0]["metadata"]["labels"]},
        "data": {"other": base64.b64encode(b"something").decode()},
    }
    after, _ = upgrade({}, [installed(strange)], tmp_path)
    made = base64.b64decode(after.one("Secret", name)["data"]["token-key"])
    assert len(made) >= 32


def test_downloaded_weights_are_kept(tmp_path: Path) -> None:
    """The claim that the Job filled is not made anew, nor deleted with the release."""
    (claim,) = render(set=DOWNLOAD).all("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    after, _ = upgrade(DOWNLOAD, [installed(claim)], tmp_path)
    assert not after.all("PersistentVolumeClaim")
    assert after.all("Job"), "what is missing on it is still fetched"


@pytest.mark.parametrize("values", [DOWNLOAD, ARGO_CD], ids=["helm", "argoCD"])
def test_argo_cd_makes_the_claim_together_with_its_first_pod(values: dict[str, Any]) -> None:
    """It goes on to the next wave when all of this one is healthy, and a claim is healthy when it is bound,
    which by WaitForFirstConsumer it is when the Job has come."""
    rendering = render(set=values)
    (claim,), (job,) = rendering.all("PersistentVolumeClaim"), rendering.all("Job")
    assert argo_cd_step(claim) == argo_cd_step(job)
    pods = [each for each in rendering.documents if each["kind"] == "Deployment"]
    assert all(argo_cd_step(job) < argo_cd_step(each) for each in pods)


def test_argo_cd_deletes_no_weights() -> None:
    """It deletes every hook at some moment, by one policy or another: by HookFailed the claim goes when a
    download fails, or anything after it."""
    (claim,) = render(set=ARGO_CD).all("PersistentVolumeClaim")
    annotations = claim["metadata"]["annotations"]
    assert not [name for name in annotations if "hook" in name]
    assert annotations["argocd.argoproj.io/sync-options"].split(",") == ["Prune=false", "Delete=false"]
    (former,) = render(set=DOWNLOAD).all("PersistentVolumeClaim")
    assert former["spec"] == claim["spec"], "that of an installation before is taken over as it is"
    assert former["metadata"]["name"] == claim["metadata"]["name"]


def argo_cd_step(document: Document) -> tuple[int, int]:
    """(phase, wave), as Argo CD reads helm's annotations and its own."""
    annotations = document["metadata"].get("annotations", {})
    hook = annotations.get("argocd.argoproj.io/hook") or annotations.get("helm.sh/hook", "Sync")
    wave = annotations.get("argocd.argoproj.io/sync-wave") or annotations.get("helm.sh/hook-weight", "0")
    return {"pre-install,pre-upgrade": 0, "Sync": 1}[hook], int(wave)
