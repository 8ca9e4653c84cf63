"""Options of both sides of a connection, and channels to other services."""

import grpc

from services.common.settings import GrpcSettings, TlsSettings
from services.common.tls import channel_credentials

Options = list[tuple[str, int]]


def common_options(settings: GrpcSettings) -> Options:
    """Message sizes and keepalive, which either side has to set for itself."""
    return [
        ("grpc.max_receive_message_length", settings.max_receive_bytes),
        ("grpc.max_send_message_length", settings.max_send_bytes),
        ("grpc.keepalive_time_ms", int(settings.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_s * 1000)),
        ("grpc.http2.ping_timeout_ms", int(settings.keepalive_timeout_s * 1000)),  # else a minute whatever
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # 0: no bound; an idle session must stay known as alive
    ]


def server_options(settings: GrpcSettings) -> Options:
    return [
        *common_options(settings),
        ("grpc.http2.min_ping_interval_without_data_ms", int(settings.min_ping_interval_s * 1000)),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.server_handshake_timeout_ms", int(settings.handshake_timeout_s * 1000)),
        ("grpc.so_reuseport", 0),  # a second process on the port must fail, not share it
    ]


def open_channel(target: str, settings: GrpcSettings, tls: TlsSettings | None) -> grpc.aio.Channel:
    """A channel to another service; `tls` None: plain text. Without retries of its own: a stream that ended
    is resumed by our protocol, and hidden retries would repeat mutations."""
    options = [*common_options(settings), ("grpc.enable_retries", 0)]
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, channel_credentials(tls), options)
