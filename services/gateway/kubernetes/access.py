"""Where the API server is, and as whom the gateway speaks to it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubernetes.aio.client import ApiClient, Configuration

from cascade_core.errors import InvalidConfig
from services.gateway.base.settings import KubernetesSettings

BEARER = "BearerToken"
"""The client's name for the credential."""


@dataclass(frozen=True)
class Access:
    """Of one service account."""

    url: str
    namespace: str
    token: Path | None
    """Replaced on disk before it expires, so it is read for each call. None: none is shown."""
    ca: Path | None
    """None: the system's authorities."""

    @classmethod
    def of(cls, settings: KubernetesSettings, environ: Mapping[str, str] = os.environ) -> "Access":
        """As the settings say, or as every pod finds it. Raises InvalidConfig."""
        folder = settings.account_dir
        token, ca = folder / "token", folder / "ca.crt"
        if not settings.api_url and not token.is_file():
            raise InvalidConfig(
                f"kubernetes.account_dir: no {token}; the pod needs automountServiceAccountToken"
            )
        return cls(
            url=settings.api_url or cluster_url(environ),
            namespace=settings.namespace or own_namespace(folder),
            token=token if token.is_file() else None,
            ca=ca if ca.is_file() else None,
        )

    def client(self) -> ApiClient:
        """To be closed by its owner. Raises InvalidConfig."""
        made = Configuration(host=self.url, ssl_ca_cert=str(self.ca) if self.ca else None)
        if self.token:
            made.refresh_api_key_hook = self._show_token
            self._show_token(made)
        try:
            return ApiClient(made)
        except OSError as error:
            raise InvalidConfig(f"kubernetes.account_dir: {self.ca}: {error}") from None

    def _show_token(self, configuration: Configuration) -> None:
        assert self.token
        try:
            configuration.api_key[BEARER] = f"Bearer {self.token.read_text().strip()}"
        except OSError:  # between two tokens: the last one is still good
            configuration.api_key.setdefault(BEARER, "Bearer")


def cluster_url(environ: Mapping[str, str]) -> str:
    """Of the cluster that this pod is in. Raises InvalidConfig."""
    host = environ.get("KUBERNETES_SERVICE_HOST")
    if not host:
        raise InvalidConfig("kubernetes.api_url: needed outside a pod (KUBERNETES_SERVICE_HOST is not set)")
    port = environ.get("KUBERNETES_SERVICE_PORT") or "443"
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def own_namespace(folder: Path) -> str:
    """Of the pod that this service account was mounted into. Raises InvalidConfig."""
    try:
        return (folder / "namespace").read_text().strip()
    except OSError:
        raise InvalidConfig(f"kubernetes.namespace: needed, there is no {folder / 'namespace'}") from None
