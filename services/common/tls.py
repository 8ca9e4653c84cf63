"""TLS and mTLS from files. Changed files hold for a server's next connection, and a client's next channel."""

from pathlib import Path

import grpc

from cascade_core.errors import InvalidConfig
from services.common.settings import TlsSettings
from services.common.watched import WatchedFiles


def server_credentials(tls: TlsSettings) -> grpc.ServerCredentials | None:
    """None without a certificate: plain text."""
    if tls.certificate is None or tls.key is None:
        return None
    certificate, key, ca = tls.certificate, tls.key, tls.ca

    def load() -> grpc.ServerCertificateConfiguration:
        roots = read(ca) if ca else None
        return grpc.ssl_server_certificate_configuration([(read(key), read(certificate))], roots)

    files = WatchedFiles([path for path in (certificate, key, ca) if path], load)
    return grpc.dynamic_ssl_server_credentials(files.get(), files.get, ca is not None)


def watched_credentials(tls: TlsSettings) -> WatchedFiles[grpc.ChannelCredentials]:
    """A client's side: another object when files have changed."""

    def load() -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=read(tls.ca) if tls.ca else None,
            private_key=read(tls.key) if tls.key else None,
            certificate_chain=read(tls.certificate) if tls.certificate else None,
        )

    return WatchedFiles([path for path in (tls.certificate, tls.key, tls.ca) if path], load)


def read(path: Path) -> bytes:
    """A PEM file; anything else would fail at the first connection, without a name."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"tls: {error}") from None
    if b"-----BEGIN " not in content:
        raise InvalidConfig(f"tls: {path} is no PEM file")
    return content
