"""Options of both sides of a connection, and channels to other services."""

from collections.abc import Sequence

import grpc

from services.common.settings import ClientTlsSettings, GrpcSettings
from services.common.tls import watched_credentials

Options = Sequence[tuple[str, int]]
"""Of gRPC."""
MAX_METADATA_BYTES = 32 * 1024
"""Of one call, as many as HTTP's headers have by default. gRPC's own bounds are 8 and 16 KiB, and what is
between them it refuses at random: long tokens would work now and then."""


def common_options(settings: GrpcSettings) -> Options:
    """Message sizes and keepalive, which either side has to set for itself."""
    return [
        ("grpc.max_receive_message_length", settings.max_receive_bytes),
        ("grpc.max_send_message_length", settings.max_send_bytes),
        ("grpc.keepalive_time_ms", int(settings.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_s * 1000)),
        ("grpc.http2.ping_timeout_ms", int(settings.keepalive_timeout_s * 1000)),  # else always a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # 0: no bound; an idle session must stay known as alive
    ]


def server_options(settings: GrpcSettings) -> Options:
    return [
        *common_options(settings),
        ("grpc.http2.min_ping_interval_without_data_ms", int(settings.min_ping_interval_s * 1000)),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.max_connection_idle_ms", int(settings.max_idle_s * 1000)),
        ("grpc.server_handshake_timeout_ms", int(settings.handshake_timeout_s * 1000)),
    ]


class ChannelFactory:
    """Channels to other services that are all reached alike. TLS files that change apply to channels opened
    afterwards; open ones stay as they are. Creating one raises InvalidConfig."""

    def __init__(self, settings: GrpcSettings, tls: ClientTlsSettings | None, options: Options = ()) -> None:
        """`tls` None: plain text. Channels do not retry by themselves: a stream that ended is resumed by our
        protocol, and hidden retries would repeat mutations. Nor do they use the environment's proxy, which is
        for what lies outside and knows no addresses of pods."""
        own = (("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0))
        self._options = [*common_options(settings), *own, *options]
        self._credentials = watched_credentials(tls) if tls else None
        self._name = [("grpc.ssl_target_name_override", tls.server_name)] if tls and tls.server_name else []

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """Another object once files have changed; None: plain text."""
        return self._credentials.get() if self._credentials else None

    def open(self, target: str) -> grpc.aio.Channel:
        """Pods are called by their addresses, which no certificate has: `ClientTlsSettings.server_name`."""
        credentials = self.credentials
        if credentials is None:
            return grpc.aio.insecure_channel(target, self._options)
        return grpc.aio.secure_channel(target, credentials, [*self._options, *self._name])


def open_channel(target: str, settings: GrpcSettings, tls: ClientTlsSettings | None) -> grpc.aio.Channel:
    """A single one; `tls` None: plain text."""
    return ChannelFactory(settings, tls).open(target)
