"""Settings of the HTTP side, `CASCADE_HTTP_<FIELD>`, and of it as a process of its own."""

from dataclasses import field
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT
from services.common.addresses import ListenHost, Network, Target, check_host
from services.common.settings import (
    MIB,
    ClientTlsSettings,
    DrainSettings,
    Port,
    Seconds,
    ServerTlsSettings,
    TelemetrySettings,
)
from services.web.origins import read_origin


def check_origin(text: str) -> str:
    if read_origin(text) is None:
        raise ValueError(
            "an origin is SCHEME://HOST[:PORT] without a path, such as https://app.example.com or"
            " tauri://localhost, or null"
        )
    return text


ORIGIN_SCHEMA = Field(json_schema_extra={"pattern": r"^([A-Za-z][A-Za-z0-9+.\-]*://[^\s/?#@\\,*]*|null)$"})
NamedOrigin = Annotated[str, AfterValidator(check_origin), ORIGIN_SCHEMA]


def as_browsers_say(host: str) -> str:
    """Raises ValueError."""
    bare = check_host(host)
    return f"[{ip_address(bare)}]" if ":" in bare else bare.lower()


HOST_SCHEMA = Field(json_schema_extra={"pattern": r"^([A-Za-z0-9_.\-]+|\[?[0-9A-Fa-f:.]+\]?)$"})
UdpPort = Annotated[int, Field(ge=0, le=65535)]
PublicAddress = Annotated[str, Field(pattern=r"^\d{1,3}(\.\d{1,3}){3}$")]
IceServer = Annotated[
    str, Field(pattern=r"^(stun:[^@\s\"<>]+|turns?:[^:@\s\"<>]+:[^@\s\"<>]+@[^@\s\"<>]+)$", max_length=512)
]
HostName = Annotated[str, AfterValidator(as_browsers_say), HOST_SCHEMA]


@dataclass(frozen=True, config=STRICT)
class HttpSettings:
    """JSON, OpenAPI and what streams video over HTTP, in the gateway's process or in one of its own. TLS is
    that of `tls`, client certificates included; callers show a key or a token, as the gateway's `auth`
    says."""

    host: ListenHost = "127.0.0.1"
    """Address to listen on; in a pod `0.0.0.0` or `::`."""
    port: Port | None = None
    """None: no HTTP. 0: any free port, told in the log."""
    hosts: tuple[HostName, ...] = ()
    """Names and addresses by which it is reached, without port, such as `cascade.example.com`; requests with
    another `Host` are refused with 421. Empty: any. Where nobody is asked for a credential, name them: else a
    page whose own name is made to lead here (DNS rebinding) is taken for ours. `cascade up` names those of
    this machine."""
    cors_origins: tuple[NamedOrigin, ...] = ()
    """Whose pages may call, beside the host's own: of a browser, such as `https://app.example.com`, or of a
    desktop's or a phone's shell, such as `tauri://localhost`, `capacitor://localhost` or `app://bundle`. Each
    by its name, without a path and without `*`. `null` is what pages of `file://` say, and what any page can
    say: name it only where everybody may call."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=4 * MIB)] = MIB
    """Body of one request; larger ones are refused with 413. A picture or clip that a new session begins
    from comes on top: 8 MiB, in base64 11 MiB."""
    max_header_bytes: Annotated[int, Field(ge=1024, le=MIB)] = 32 * 1024
    """Headers of one request, its first line included; larger ones are refused with 431."""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Connections open at once, WebSockets included, though never more than a quarter of the descriptors that
    the process may have open (`ulimit -n`); further ones are closed at once."""
    max_connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """The same for one client address (of IPv6: one /64 network), though never more than an eighth of
    the descriptors. Behind a proxy that is not in `trusted_proxies`, all clients are one address."""
    max_anonymous_per_s: Annotated[float, Field(gt=0, le=100_000)] = 200.0
    """Requests per second of one client address that show no credential or a wrong one, or that are refused
    before it is looked at, ten times as many in a burst; beyond it all requests of this address are refused
    with 429, whatever they show. With a credential the tenant's rate counts."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of proxies before this port, such as `10.0.0.0/8`: whom they name in `X-Forwarded-For` is
    counted in their place, and the place that they say was called (`X-Forwarded-Host`, `-Port`, `-Proto`) is
    taken for our own."""
    header_timeout_s: Seconds = 10.0
    """A connection that has not sent the headers of its request by then is closed."""
    body_timeout_s: Seconds = 30.0
    """A request whose body has not come by then is refused with 408."""
    write_timeout_s: Seconds = 60.0
    """A connection whose client takes nothing of what is sent for that long is closed."""
    keep_alive_s: Annotated[int, Field(ge=1, le=3600)] = 75
    """An idle connection is closed after that long. Keep it longer than a load balancer's own idle timeout,
    so that it meets no closed connection."""
    call_timeout_s: Seconds = 30.0
    """Deadline of each call to the gateway with one answer."""
    metrics: bool = False
    """Whether `/metrics` is answered here too, to everybody who reaches the port;
    `telemetry.metrics_port` is a port for metrics alone."""
    webrtc: bool = False
    """Whether players may have video by WebRTC (WHEP). Needs the extra `webrtc`, and UDP from players to this
    process: see docs/clients.md."""
    webrtc_host: ListenHost | None = None
    """Address that WebRTC's UDP sockets are bound to; None: every address of this machine but loopback."""
    webrtc_public_address: PublicAddress | None = None
    """IPv4 address by which players reach those sockets, where that is another, such as a node's or a load
    balancer's; ports stay the same. None: the machine's own addresses."""
    webrtc_first_port: UdpPort = 0
    """With `webrtc_last_port`, the range of UDP ports; a player takes one. 0: any free ones."""
    webrtc_last_port: UdpPort = 0
    """See `webrtc_first_port`."""
    webrtc_ice_servers: tuple[IceServer, ...] = ()
    """What players are told to reach us by: `stun:HOST:PORT`, or `turn:USER:PASSWORD@HOST:PORT`."""
    webrtc_max_players: Annotated[int, Field(ge=1, le=10_000)] = 100
    """At the same time in this process, a quarter of them of one session; more are refused with 429."""
    page: bool = True
    """Whether `/`, `/compare`, `/operator` and `/docs`, the pages for people, are served. They show nothing
    that the API does not."""

    @model_validator(mode="after")
    def _check_ports(self) -> "HttpSettings":
        if bool(self.webrtc_first_port) != bool(self.webrtc_last_port):
            raise ValueError("webrtc_first_port and webrtc_last_port belong together")
        if self.webrtc_first_port > self.webrtc_last_port:
            raise ValueError("webrtc_last_port must not be below webrtc_first_port")
        return self


@dataclass(frozen=True, config=STRICT)
class OwnHttpSettings(HttpSettings):
    """As HttpSettings; a process of its own has nothing else to listen with."""

    port: Port = 8080
    """0: any free port, told in the log."""


@dataclass(frozen=True, config=STRICT)
class WebSettings(ClientTlsSettings):
    """The way to the gateway, for an HTTP side that is a process of its own: `CASCADE_WEB_<FIELD>`."""

    gateway: Target = "127.0.0.1:50051"
    """HOST:PORT of a gateway, or of a Service in front of several. Who may do what is decided there."""
    token_key_file: Path | None = None
    """The gateways' `token_key_file`: with it, resume tokens are read here. None: the gateway is asked about
    each one, by a viewer's stream that is attached and left, and its answer holds for 15 s."""
    tls: bool = False
    """Whether the gateway is called over TLS."""

    @model_validator(mode="after")
    def _check_tls(self) -> "WebSettings":
        if not self.tls and (self.certificate or self.ca or self.server_name):
            raise ValueError("certificate, ca and server_name need tls")
        return self


@dataclass(frozen=True, config=STRICT)
class Settings:
    """All sections of an HTTP side that is a process of its own."""

    web: WebSettings = field(default_factory=WebSettings)
    http: OwnHttpSettings = field(default_factory=OwnHttpSettings)
    tls: ServerTlsSettings = field(default_factory=ServerTlsSettings)
    drain: DrainSettings = field(default_factory=DrainSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
