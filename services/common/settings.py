"""Typed, frozen settings of every service, from the environment and a TOML file.

`CASCADE_<SECTION>_<FIELD>` wins over `[section] field` of the file that `CASCADE_CONFIG_FILE` names. A
service declares its sections by extending `ServerSettings`. How values are found: `environment.py`.
"""

import re
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT
from services.common.addresses import ListenHost, Network

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Wait = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1024, le=2**30)]
MIB = 2**20


def check_word(text: str) -> str:
    """Text that stands in a token exactly as it is written here."""
    if not text or text != text.strip() or not text.isprintable():
        raise ValueError("must not be empty, and have no spaces around it")
    return text


Word = Annotated[str, AfterValidator(check_word)]
Words = Annotated[
    tuple[Word, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]
"""In a file also a single text, without a list around it."""


@dataclass(frozen=True, config=STRICT)
class GrpcSettings:
    """The listening side, and what both sides of a connection agree on."""

    host: ListenHost = "127.0.0.1"
    """Address to listen on; in a pod `0.0.0.0` or `::`, since the kubelet's probes come from outside."""
    port: Port = 50051
    """Port to listen on; 0: any free one (tests; `cascade up`), told in the log. In Kubernetes equal to the
    containerPort."""
    reflection: bool = True
    """Whether grpcurl and its like can ask what is served; answered to authenticated callers only."""
    max_receive_bytes: Bytes = 64 * MIB
    """Largest message taken in. Opening a session with a window of 480p latents is about 10 MB."""
    max_send_bytes: Bytes = 64 * MIB
    """Largest message sent; keep it at or under the peer's `max_receive_bytes`."""
    max_concurrent_rpcs: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Calls answered at once, open streams included, health checks not; more are refused as retryable."""
    max_streams_per_connection: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """HTTP/2 streams of one connection; further calls wait at the client."""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Connections accepted at once, though never more than half of the descriptors that the process may have
    open (`ulimit -n`); further ones are closed at once. When seven eighths of them are there, those without a
    call are closed, the oldest first."""
    max_connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Connections of one client address (of IPv6: of one /64 network), though never more than a quarter of
    the descriptors. Beyond it those without a call are closed, the oldest first, and a call on a new one is
    refused as retryable; those that carry calls stay."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of load balancers and proxies before this port, such as `10.0.0.0/8`: each brings the
    connections of many clients, so theirs are bounded in all, not by address."""
    max_idle_s: Seconds = 300.0
    """A connection without a call is closed after that long; clients open another for their next call."""
    handshake_timeout_s: Seconds = 10.0
    """A connection that has not finished its (TLS) handshake by then is closed."""
    keepalive_time_s: Seconds = 20.0
    """A ping after this long without traffic. Keep it under the idle timeout of load balancers (60 s)."""
    keepalive_timeout_s: Seconds = 10.0
    """A peer that has not answered a ping by then is gone, and its streams end."""
    min_ping_interval_s: Seconds = 5.0
    """Clients that ping more often are disconnected; keep it under every peer's `keepalive_time_s`."""
    default_deadline_s: Seconds = 30.0
    """For calls with one answer that bring no deadline. Streams have none: they last as long as a session."""
    max_deadline_s: Seconds = 300.0
    """Longer deadlines of calls with one answer are cut to this."""

    @model_validator(mode="after")
    def _check(self) -> "GrpcSettings":
        if self.default_deadline_s > self.max_deadline_s:
            raise ValueError("default_deadline_s must not exceed max_deadline_s")
        if self.min_ping_interval_s > self.keepalive_time_s:
            raise ValueError("min_ping_interval_s must not exceed keepalive_time_s")
        return self


@dataclass(frozen=True, config=STRICT)
class PeerGrpcSettings(GrpcSettings):
    """As GrpcSettings, with the bounds of the contracts behind the gateway: 16 MiB of latents."""

    max_receive_bytes: Bytes = 17 * MIB
    max_send_bytes: Bytes = 17 * MIB


@dataclass(frozen=True, config=STRICT)
class TlsSettings:
    """PEM files, read again when they change (cert-manager, Secret volumes). None of them: plain text."""

    certificate: Path | None = None
    """This side's certificate chain."""
    key: Path | None = None
    """Its private key."""
    ca: Path | None = None
    """Who may sign the other side's certificate. At a server: where it is set, clients must bring one (mTLS).
    At a client: None trusts the system's authorities."""

    @model_validator(mode="after")
    def _check(self) -> "TlsSettings":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key come together")
        for name in ("certificate", "key", "ca"):
            path = getattr(self, name)
            if path is not None and not is_file(path):
                raise ValueError(f"{name}: no file {path}")
        return self


@dataclass(frozen=True, config=STRICT)
class ClientTlsSettings(TlsSettings):
    """As TlsSettings, with whom to expect."""

    server_name: str | None = None
    """Name that the server's certificate must have; None: the one by which it is called."""


@dataclass(frozen=True, config=STRICT)
class ServerTlsSettings(TlsSettings):
    """As TlsSettings; a server cannot ask for client certificates without one of its own."""

    @model_validator(mode="after")
    def _check_server(self) -> "ServerTlsSettings":
        if self.ca and not self.certificate:
            raise ValueError("ca needs certificate and key")
        return self


@dataclass(frozen=True, config=STRICT)
class AuthSettings:
    """Who may call."""

    modes: tuple[Literal["api_keys", "jwt", "mtls"], ...] = ()
    """Any of them lets a caller in. None: everybody who reaches the port (NetworkPolicy or mTLS decide).
    api_keys: `keys_file`. jwt: tokens of an identity provider, by `jwks`, `issuer` and `audience`. mtls: the
    client certificate's name, for callers that send no key and no token; needs `tls.ca`."""
    keys_file: Path | None = None
    """TOML with `[[keys]]` of `name`, `tenant`, `sha256` (of the key, in hex); a Secret volume in Kubernetes.
    Read again when it changes."""
    jwks: str | None = None
    """Public keys of the identity provider (JSON Web Key Set): a file, read again when it changes, or an
    `https://` URL (`http://` at 127.0.0.1 or [::1] only), fetched for the first token, for a token signed by
    an unknown key, and after `jwks_max_age_s`. Signatures are by RS256, PS256, ES256 (of each also 384 and
    512) or EdDSA (Ed25519). A key that names its `alg` is for that alone; private keys, those that are not
    for signatures, and broken ones are left out."""
    jwks_max_age_s: Seconds = 3600.0
    """Keys from a URL that are older are fetched again; a fetch that fails keeps them."""
    issuer: Word | None = None
    """`iss` of the tokens, to the letter: with a slash at its end or without, as the provider writes it."""
    audience: Words = ()
    """Tokens that are meant for us have one of these in `aud`."""
    audience_claims: Annotated[Words, Field(min_length=1)] = ("aud",)
    """Where the audience stands: the first of these claims that a token has counts. Access tokens of Amazon
    Cognito have no `aud`, but `client_id`, others `azp`; `audience` then names clients."""
    tenant_claim: Annotated[Word, Field(min_length=1)] = "tenant"
    """The claim that names the tenant, by its whole name (`https://example.com/tenant`) or, where it is
    nested, with dots between the names (`realm_access.tenant`): a text, a list of one, or a whole number,
    whose digits are the tenant. A token without it is refused."""

    @model_validator(mode="after")
    def _check(self) -> "AuthSettings":
        if ("api_keys" in self.modes) != (self.keys_file is not None):
            raise ValueError("api_keys in modes and keys_file come together")
        given = [bool(value) for value in (self.jwks, self.issuer, self.audience)]
        if any(given) != all(given) or ("jwt" in self.modes) != all(given):
            raise ValueError("jwt in modes, jwks, issuer and audience come together")
        if self.jwks is not None and "://" in self.jwks:
            check_jwks_url(self.jwks)
        return self


def check_jwks_url(url: str) -> None:
    """Raises ValueError."""
    if not is_safe_url(url):
        raise ValueError("jwks must be a file, an https:// URL or one of http://127.0.0.1 or http://[::1]")
    if re.search("/.well-known/(openid-configuration|oauth-authorization-server)", url):
        raise ValueError("jwks is the provider's description; it must be the URL that this has as jwks_uri")


def is_file(path: Path) -> bool:
    """False, too, for what can be no path at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_safe_url(url: str) -> bool:
    """Whether nobody on the way can change what is fetched."""
    try:
        parts = urlsplit(url)
        is_local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1")
        is_whole = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
        return parts.username is None and is_whole and (is_local or parts.scheme == "https")
    except ValueError:
        return False


@dataclass(frozen=True, config=STRICT)
class GpuSettings:
    """When the GPUs of this process count as broken; part of the section of each service that uses some."""

    gpu_check_interval_s: Seconds = 2.0
    """How often the driver is asked about the GPUs."""
    gpu_deadline_s: Seconds = 30.0
    """A driver that has not answered for that long makes its GPUs count as broken."""
    max_gpu_celsius: Annotated[int, Field(ge=40, le=120)] = 95
    """A hotter GPU counts as broken until it has cooled."""


@dataclass(frozen=True, config=STRICT)
class HealthSettings:
    """When this process counts as healthy."""

    stall_after_s: Seconds = 30.0
    """NOT_SERVING when work has waited this long without progress. Keep it above the slowest honest step (a
    tick, a block); readiness follows it, so keep probe period x failureThreshold short beside it."""
    check_interval_s: Seconds = 0.5
    """How often conditions are looked at."""


@dataclass(frozen=True, config=STRICT)
class DrainSettings:
    """The way out after SIGTERM; `terminationGracePeriodSeconds` must exceed the sum of these."""

    notice_s: Wait = 0.0
    """Time between NOT_SERVING and refusing new calls. Endpoints take seconds to leave a Service: 3 to 5
    where clients come through one, 0 where peers watch our status."""
    deadline_s: Wait = 60.0
    """Time sessions have to move away or end after they are told in-band."""
    grace_s: Wait = 5.0
    """Time calls still open then have before they are cancelled."""
    hurry_s: Wait = 1.0
    """The same after a second signal, which skips what is left of the waits above."""


@dataclass(frozen=True, config=STRICT)
class TelemetrySettings:
    """Logs, metrics, traces."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """debug also logs each health check."""
    log_format: Literal["json", "text"] = "json"
    """text: for people at a terminal."""
    metrics_host: ListenHost = "127.0.0.1"
    """Where `/metrics` listens. In a pod `0.0.0.0` or `::`, with a NetworkPolicy that lets in Prometheus
    alone."""
    metrics_port: Port | None = None
    """None: no endpoint. 0: any free port, told in the log."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None
    """Collector for traces over gRPC, such as `http://otel-collector:4317`; None: no traces."""
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of traces begun here that are kept; a caller's decision is followed."""


@dataclass(frozen=True, config=STRICT)
class ServerSettings:
    """The sections of every service."""

    grpc: GrpcSettings = field(default_factory=GrpcSettings)
    tls: ServerTlsSettings = field(default_factory=ServerTlsSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    drain: DrainSettings = field(default_factory=DrainSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
