"""How a pod finds and is known to its API server."""

import ssl
from pathlib import Path

import pytest

from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.gateway.base.settings import KubernetesSettings
from services.gateway.kubernetes.access import Access
from services.gateway.kubernetes.errors import ApiError
from tests.services.support.certificates import Authority
from tests.services.support.cluster_support import calling, kubernetes_settings
from tests.services.support.fake_api_server import FakeApiServer


def account(folder: Path) -> Path:
    """As the kubelet mounts it."""
    (folder / "token").write_text("secret")
    (folder / "namespace").write_text("films")
    return folder


def of(folder: Path, environ: dict[str, str], **fields: object) -> Access:
    values = {"stage_service": "stage", "account_dir": folder}
    return Access.of(make(KubernetesSettings, values | fields), environ)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://10.0.0.1:6443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1"}, "https://[fd00::1]:443"),
    ],
)
def test_a_pod_finds_its_server_and_its_namespace(tmp_path: Path, environ: dict[str, str], url: str) -> None:
    found = of(account(tmp_path), environ)
    assert (found.url, found.namespace) == (url, "films")


def test_settings_win(tmp_path: Path) -> None:
    found = of(account(tmp_path), {}, api_url="http://127.0.0.1:8001", namespace="other")
    assert (found.url, found.namespace) == ("http://127.0.0.1:8001", "other")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="automountServiceAccountToken"):
        of(tmp_path, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    with pytest.raises(InvalidConfig, match=r"kubernetes\.namespace"):
        of(tmp_path, {}, api_url="http://127.0.0.1:8001")
    with pytest.raises(InvalidConfig, match=r"kubernetes\.api_url"):
        of(account(tmp_path), {})


@pytest.mark.parametrize("field", ["deletion_cost", "events"])
def test_what_needs_pods_needs_a_service(field: str) -> None:
    with pytest.raises(InvalidConfig, match="stage_service or decoder_service"):
        make(KubernetesSettings, {field: True})


async def test_authorities_that_changed_are_trusted_from_then_on(tmp_path: Path) -> None:
    folder = tmp_path / "account"
    folder.mkdir()
    account(folder)
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    (folder / "ca.crt").write_bytes(old.path.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*new.issue("server"))
    server = FakeApiServer(context)
    async with server, calling(server, account_dir=folder) as api:
        with pytest.raises(ApiError, match="Certificate"):
            await api.list_slices("stage")
        assert not server.calls
        (folder / "ca.crt").write_bytes(new.path.read_bytes())
        assert await api.list_slices("stage") == ([], "100")
        (folder / "ca.crt").write_text("half a certificate")
        assert await api.list_slices("stage") == ([], "100"), "the last good ones stay in use"


def test_broken_authorities_are_named(tmp_path: Path) -> None:
    (account(tmp_path) / "ca.crt").write_text("no certificate")
    access = Access.of(kubernetes_settings("https://127.0.0.1:1", account_dir=tmp_path))
    with pytest.raises(InvalidConfig, match=r"kubernetes\.account_dir: .*ca\.crt"):
        access.client()
