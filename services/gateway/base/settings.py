"""Settings of the gateway: `CASCADE_GATEWAY_<FIELD>`, or `[gateway]` in the settings file."""

from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT
from services.common.addresses import OwnTarget, Target
from services.common.settings import (
    MIB,
    Bytes,
    ClientTlsSettings,
    GrpcSettings,
    Port,
    Seconds,
    ServerSettings,
    Wait,
    is_file,
)
from services.web.settings import HttpSettings

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Places = Annotated[int, Field(ge=0, le=1_000_000)]


@dataclass(frozen=True, config=STRICT)
class GatewaySettings:
    """Sessions, their queue and their journal."""

    stages: tuple[Target, ...] = ("127.0.0.1:50061",)
    """Addresses of the stages, `host:port`; of IPv6 `[fd00::5]:50061`."""
    decoders: tuple[Target, ...] = ("127.0.0.1:50071",)
    """Addresses of the decoders."""
    default_model: str = "demo"
    """For sessions that name none."""
    advertise: OwnTarget | None = None
    """`host:port` at which other gateways reach this one (a pod: its own IP). None: where it listens."""
    redis_url: str | None = None
    """`redis://USER:PASSWORD@HOST:PORT/0`, `rediss://` for TLS: sessions outlive this process, and gateways
    share them. `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME` (TLS: `rediss+sentinel://`) asks
    these Sentinels for the primary of that name; `?sentinel_password=` where they want one. None: in
    memory."""
    redis_password_file: Path | None = None
    """Instead of a password in `redis_url`; read for each new connection, so that it can be renewed while
    Redis takes both the old one and the new one."""
    redis_ca: Path | None = None
    """Who may sign the certificate of Redis (PEM); None: the system's authorities. This and the next two are
    read for each new connection."""
    redis_certificate: Path | None = None
    """Client certificate, where Redis asks for one."""
    redis_key: Path | None = None
    """Its private key."""
    redis_prefix: str = "cascade"
    """First part of every key, so that installations can share a Redis."""
    token_key_file: Path | None = None
    """At least 32 random bytes that sign resume tokens, the same for all gateways. None: made up at start,
    which only a single gateway can do. Read again when it changes."""
    token_ttl_s: Seconds = 600.0
    """Life of a resume token; an attached stream renews it after half of that."""
    quotas_file: Path | None = None
    """TOML with `[[tenants]]` (see `quotas.py`). None: `max_sessions_per_tenant` for everybody."""
    max_sessions_per_tenant: Count = 100
    """Sessions that have not ended, queued ones included, where the quotas file says nothing else."""
    max_calls_per_s: Annotated[float, Field(gt=0, le=100_000)] = 100.0
    """Calls with one answer per tenant and second, ten times as many in a burst, where the quotas file says
    nothing else."""
    operator_tenants: tuple[str, ...] = ()
    """Tenants whose callers may read the overview, which shows sessions of all tenants. Where `auth.modes` is
    empty everybody may, whatever this says; else, with none here, nobody. Callers with a client certificate
    alone are of the tenant `default`."""
    queue_length: Count = 1000
    """Sessions that may wait for a place; more are refused with QUEUE_FULL."""
    idle_timeout_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    """Time without a controller after which a session ends, unless it names a time itself."""
    max_unacked_segments: Annotated[int, Field(ge=1, le=64)] = 4
    """Segments made beyond the last ack, where the client does not ask for another number."""
    max_unacked_limit: Annotated[int, Field(ge=1, le=64)] = 32
    """The most a client gets. At least as many segments of each session are kept."""
    just_in_time: bool = True
    """Whether blocks of a session whose controller says what its player has (`Ack.playback`, as the page
    does) are made just before they are needed, so that a switch is on the screen sooner. Never more of them
    than acks allow. False: always as soon as acks allow."""
    least_lead_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    """With `just_in_time`: at least that long before its playing a block is asked for, however quickly blocks
    are made. A loss that takes longer to make good than a player has left is seen as a standstill: more
    rides out longer ones, and a switch is seen that much later."""
    kept_segments: Annotated[int, Field(ge=1, le=1000)] = 64
    """Newest segments kept for clients that reconnect and for viewers; 64 of 150 kB are 10 MB a session."""
    max_viewers: Annotated[int, Field(ge=0, le=10_000)] = 200
    """Viewers that one session may have at a time."""
    session_bytes: Annotated[int, Field(ge=MIB, le=2**32)] = 64 * MIB
    """Journal memory of one session, latents and segments: beyond it the oldest segments give way."""
    journal_bytes: Annotated[int, Field(ge=MIB)] = 16 * 2**30
    """Journal memory of all sessions of this gateway, each of which reserves `session_bytes`."""
    lease_s: Annotated[float, Field(ge=0.5, le=60)] = 2.0
    """With Redis: a gateway that has not renewed a session for that long has lost it to whoever asks.
    Recovery from the loss of a gateway takes at least that long."""
    status_interval_s: Annotated[float, Field(ge=0.1, le=60)] = 0.5
    """Stages and decoders report at least that often; one that is silent for three intervals is gone."""
    open_timeout_s: Seconds = 30.0
    """Time a stage or decoder has to answer Open, priming included."""
    stall_timeout_s: Seconds = 30.0
    """A stage with credit, or a decoder with latents, that gives nothing for that long is lost."""
    recovery_timeout_s: Seconds = 120.0
    """A session that finds no stage or decoder for that long after a loss ends with FAILED."""
    encode_timeout_s: Seconds = 20.0
    """Time in which decoders have to encode the picture or clip that a session is to begin from, waiting for
    one included. Callers have deadlines of their own: by default 30 s."""
    start_bytes: Annotated[int, Field(ge=8 * MIB)] = 256 * MIB
    """Pictures and clips that are held at a time, each until it is encoded; a quarter of it for one tenant.
    More are refused with OVERLOADED, unless there is no other."""

    @model_validator(mode="after")
    def _check(self) -> "GatewaySettings":
        if self.redis_url and not self.token_key_file:
            raise ValueError("redis_url needs token_key_file: all gateways must sign alike")
        if (self.redis_certificate is None) != (self.redis_key is None):
            raise ValueError("redis_certificate and redis_key come together")
        for name in ("redis_password_file", "redis_ca", "redis_certificate", "redis_key"):
            path = getattr(self, name)
            if path is not None and not self.redis_url:
                raise ValueError(f"{name} needs redis_url")
            if path is not None and not is_file(path):
                raise ValueError(f"{name}: no file {path}")
        if self.max_unacked_segments > self.max_unacked_limit:
            raise ValueError("max_unacked_segments must not exceed max_unacked_limit")
        if self.kept_segments < self.max_unacked_limit:
            raise ValueError("kept_segments must not be less than max_unacked_limit")
        return self


@dataclass(frozen=True, config=STRICT)
class GatewayGrpcSettings(GrpcSettings):
    """As GrpcSettings, with the contract's bounds."""

    port: Port = 50051
    max_receive_bytes: Bytes = 9 * MIB
    """Largest message taken in, as the contract says."""
    max_send_bytes: Bytes = 9 * MIB
    """Largest message sent, as the contract says."""
    max_concurrent_rpcs: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Calls answered at once, open streams included; controllers and viewers hold one stream each."""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Connections accepted at once, though never more than half of the descriptors that the process may have
    open (`ulimit -n`); further ones are closed at once. When seven eighths of them are there, those without a
    call are closed, the oldest first. Each client may have one of its own."""
    max_streams_per_connection: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """HTTP/2 streams of one connection; further calls wait at the client."""


@dataclass(frozen=True, config=STRICT)
class PeerSettings:
    """The gateway as a client: `CASCADE_PEER_<FIELD>`."""

    max_message_bytes: Bytes = 17 * MIB
    """Largest message either way, as the contracts of stage and decoder say."""
    keepalive_time_s: Seconds = 10.0
    """A ping after this long without traffic."""
    keepalive_timeout_s: Seconds = 5.0
    """A peer that has not answered a ping by then is gone."""
    api_key_file: Path | None = None
    """File of the key that this gateway shows to stages and decoders. None: no key."""
    tls: bool = False
    """Whether stages, decoders and other gateways are called over TLS."""
    certificate: Path | None = None
    """Client certificate, for mTLS."""
    key: Path | None = None
    """Its private key."""
    ca: Path | None = None
    """Who signs the peers' certificates; None: the system's authorities."""
    server_name: str | None = None
    """Name that each peer's certificate has; None: the address by which it is called, which in Kubernetes is
    a pod's IP."""

    def grpc(self) -> GrpcSettings:
        """What a channel to a peer needs."""
        return GrpcSettings(
            max_receive_bytes=self.max_message_bytes,
            max_send_bytes=self.max_message_bytes,
            keepalive_time_s=self.keepalive_time_s,
            keepalive_timeout_s=self.keepalive_timeout_s,
        )

    def credentials(self) -> ClientTlsSettings | None:
        """None: plain text."""
        files = (self.certificate, self.key, self.ca)
        return ClientTlsSettings(*files, server_name=self.server_name) if self.tls else None


@dataclass(frozen=True, config=STRICT)
class ScalerSettings:
    """How many stage and decoder pods there should be, told to KEDA and Prometheus: `CASCADE_SCALER_<FIELD>`.
    The same at all gateways of an installation."""

    open: bool = True
    """Whether KEDA's calls need no credential: it cannot send an API key. What they read is two numbers; a
    NetworkPolicy keeps others out. False: KEDA shows a client certificate that `auth` takes."""
    warm_stage_sessions: Places = 1
    """Places on stages to keep free beyond the need, so that a session need not wait for a pod. 0: none, and
    no pod at all while nobody is there."""
    warm_decoder_sessions: Places = 1
    """The same on decoders."""
    assumed_stage_sessions: Count = 1
    """Sessions per stage pod, until one has reported how many it takes."""
    assumed_decoder_sessions: Count = 1
    """Sessions per decoder pod, until one has reported how many it takes."""
    crowd_factor: Annotated[float, Field(ge=0, le=20)] = 1.0
    """While a crowd comes (more sessions in the last minute than chance and the 14 minutes before it
    explain), this many more are expected for each session of it, and pods are asked for before those come. A
    gateway counts arrivals for a quarter of an hour before it expects any. 0: only sessions that are there
    count."""
    scale_down_after_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """Fewer pods are wanted when fewer would have done for that long. The HPA's own
    `scaleDown.stabilizationWindowSeconds` adds to it: set that to 0 with KEDA, and to 60 where the HPA reads
    the number from Prometheus, which has it later."""
    replace_after_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """A pod that was ready and is quarantined, drained or silent for that long gets another beside it."""
    settle_s: Seconds = 30.0
    """After its start a gateway gives no number until all pods have reported, or this long has passed."""
    others_kept_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """While Redis is gone, the queues of the other gateways count as last known, for at most that long."""
    interval_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    """How often the number is made anew and exchanged with the other gateways. One that is silent for three
    intervals has left."""
    hpa_tolerance: Annotated[float, Field(ge=0, le=1)] = 0.1
    """What the HPA takes as equal (0.1 in Kubernetes): too small a step up is enlarged, since it would never
    be made. 0 where `behavior.scaleUp.tolerance` is 0."""


@dataclass(frozen=True, config=STRICT)
class KubernetesSettings:
    """The cluster that the gateway runs in: `CASCADE_KUBERNETES_<FIELD>`."""

    stage_service: str | None = None
    """Service whose EndpointSlices list the stages, best a headless one that also publishes pods that are not
    ready: the gateway judges by their reports. None: `gateway.stages`."""
    decoder_service: str | None = None
    """As `stage_service`, for the decoders. None: `gateway.decoders`."""
    port_name: Annotated[str, Field(min_length=1)] = "grpc"
    """Name of the port of these Services that is called."""
    namespace: str | None = None
    """Where Services and pods are. None: the pod's own."""
    deletion_cost: bool = False
    """Whether pods with sessions are annotated with `controller.kubernetes.io/pod-deletion-cost`, so that a
    ReplicaSet that shrinks takes idle ones first. Needs `get` and `patch` of pods."""
    idle_after_s: Wait = 30.0
    """A pod without sessions for that long counts as idle."""
    events: bool = False
    """Whether an Event on a pod tells why it is quarantined. Needs `create` of events in `events.k8s.io`."""
    api_url: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/[^\s]*)?$")] | None = None
    """URL of the API server. None: found as every pod finds it."""
    account_dir: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """The service account as mounted: `token`, `ca.crt`, `namespace`; read again when they change."""
    request_timeout_s: Seconds = 10.0
    """Time the API server has to answer."""
    watch_timeout_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """A watch is opened anew that often, so that a connection that died in silence hides changes no longer
    than that."""
    resync_s: Seconds = 600.0
    """The whole list is fetched again that often, whatever the watch told."""

    @model_validator(mode="after")
    def _check(self) -> "KubernetesSettings":
        if (self.deletion_cost or self.events) and not self.is_used:
            raise ValueError("deletion_cost and events need stage_service or decoder_service")
        return self

    @property
    def is_used(self) -> bool:
        """Whether the API server is needed at all."""
        return self.stage_service is not None or self.decoder_service is not None


@dataclass(frozen=True, config=STRICT)
class Settings(ServerSettings):
    """All sections of a gateway."""

    grpc: GatewayGrpcSettings = field(default_factory=GatewayGrpcSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    peer: PeerSettings = field(default_factory=PeerSettings)
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)
    scaler: ScalerSettings = field(default_factory=ScalerSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
