"""Settings of the gateway: `CASCADE_GATEWAY_<FIELD>`, or `[gateway]` in the settings file."""

from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT
from services.common.settings import MIB, Bytes, GrpcSettings, Port, Seconds, ServerSettings, TlsSettings

Count = Annotated[int, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True, config=STRICT)
class GatewaySettings:
    """Sessions, their queue and their journal."""

    stages: tuple[str, ...] = ("127.0.0.1:50061",)
    """Addresses of the stages, `host:port`."""
    decoders: tuple[str, ...] = ("127.0.0.1:50071",)
    """Addresses of the decoders."""
    default_model: str = "demo"
    """For sessions that name none."""
    advertise: str | None = None
    """`host:port` at which other gateways reach this one (a pod: its own IP). None: where it listens."""
    redis_url: str | None = None
    """`redis://` or `rediss://`: sessions outlive this process, and gateways share them. None: in memory."""
    redis_prefix: str = "cascade"
    """First part of every key, so that installations can share a Redis."""
    token_key_file: Path | None = None
    """At least 32 random bytes that sign resume tokens, the same for all gateways. None: made up at start,
    which only a single gateway can do. Read again when it changes."""
    token_ttl_s: Seconds = 600.0
    """Life of a resume token; an attached stream renews it at half of that."""
    quotas_file: Path | None = None
    """TOML with `[[tenants]]` (see `quotas.py`). None: `max_sessions_per_tenant` for everybody."""
    max_sessions_per_tenant: Count = 100
    """Sessions that have not ended, queued ones included, where the quotas file says nothing else."""
    max_calls_per_s: Annotated[float, Field(gt=0, le=100_000)] = 100.0
    """Calls with one answer per tenant and second, ten times as many in a burst, where the quotas file says
    nothing else."""
    queue_length: Count = 1000
    """Sessions that may wait for a place; more are refused with QUEUE_FULL."""
    idle_timeout_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    """Time without a controller after which a session ends, where it does not say itself."""
    max_unacked_segments: Annotated[int, Field(ge=1, le=64)] = 4
    """Segments made beyond the last ack, where the client does not ask for another number."""
    max_unacked_limit: Annotated[int, Field(ge=1, le=64)] = 32
    """The most a client gets. So many segments of each session are kept at least."""
    kept_segments: Annotated[int, Field(ge=1, le=1000)] = 64
    """Newest segments kept for clients that reconnect and for viewers; 64 of 150 kB are 10 MB a session."""
    max_viewers: Annotated[int, Field(ge=0, le=10_000)] = 200
    """Of one session."""
    session_bytes: Annotated[int, Field(ge=MIB, le=2**32)] = 64 * MIB
    """Journal memory of one session, latents and segments: the oldest segments give way beyond it."""
    journal_bytes: Annotated[int, Field(ge=MIB)] = 16 * 2**30
    """Journal memory of all sessions of this gateway, reserved by `session_bytes` each."""
    lease_s: Annotated[float, Field(ge=0.5, le=60)] = 2.0
    """With Redis: a gateway that did not renew a session for that long has lost it to whoever asks. Recovery
    from the loss of a gateway takes at least that long."""
    status_interval_s: Annotated[float, Field(ge=0.1, le=60)] = 0.5
    """Stages and decoders report at least that often; one silent for three intervals is gone."""
    open_timeout_s: Seconds = 30.0
    """For a stage or decoder to answer Open, priming included."""
    stall_timeout_s: Seconds = 30.0
    """A stage with credit, or a decoder with latents, that gives nothing for that long is lost."""
    recovery_timeout_s: Seconds = 120.0
    """A session that finds no stage or decoder for that long after a loss ends with FAILED."""

    @model_validator(mode="after")
    def _check(self) -> "GatewaySettings":
        if self.redis_url and not self.token_key_file:
            raise ValueError("redis_url needs token_key_file: all gateways must sign alike")
        if self.max_unacked_segments > self.max_unacked_limit:
            raise ValueError("max_unacked_segments must not exceed max_unacked_limit")
        if self.kept_segments < self.max_unacked_limit:
            raise ValueError("kept_segments must not be less than max_unacked_limit")
        return self


@dataclass(frozen=True, config=STRICT)
class GatewayGrpcSettings(GrpcSettings):
    """As GrpcSettings, with the contract's bounds."""

    port: Port = 50051
    max_receive_bytes: Bytes = 4 * MIB
    """As the contract says."""
    max_send_bytes: Bytes = 9 * MIB
    """As the contract says."""
    max_concurrent_rpcs: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Controllers and viewers hold one stream each."""
    max_streams_per_connection: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """HTTP/2 streams of one connection; further calls wait at the client."""


@dataclass(frozen=True, config=STRICT)
class PeerSettings:
    """The gateway as a client: `CASCADE_PEER_<FIELD>`."""

    max_message_bytes: Bytes = 17 * MIB
    """Both ways, as the contracts of stage and decoder say."""
    keepalive_time_s: Seconds = 10.0
    """A ping after this long without traffic."""
    keepalive_timeout_s: Seconds = 5.0
    """A peer that has not answered a ping by then is gone."""
    api_key_file: Path | None = None
    """The key this gateway shows to stages and decoders. None: none."""
    tls: bool = False
    """Whether stages, decoders and other gateways are spoken to over TLS."""
    certificate: Path | None = None
    """Client certificate, for mTLS."""
    key: Path | None = None
    """Its private key."""
    ca: Path | None = None
    """Who signs the peers' certificates; None: the system's authorities."""

    def grpc(self) -> GrpcSettings:
        """What a channel to a peer needs."""
        return GrpcSettings(
            max_receive_bytes=self.max_message_bytes,
            max_send_bytes=self.max_message_bytes,
            keepalive_time_s=self.keepalive_time_s,
            keepalive_timeout_s=self.keepalive_timeout_s,
        )

    def credentials(self) -> TlsSettings | None:
        """None: plain text."""
        return TlsSettings(self.certificate, self.key, self.ca) if self.tls else None


@dataclass(frozen=True, config=STRICT)
class Settings(ServerSettings):
    """All sections of a gateway."""

    grpc: GatewayGrpcSettings = field(default_factory=GatewayGrpcSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    peer: PeerSettings = field(default_factory=PeerSettings)
