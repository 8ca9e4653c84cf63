"""TLS and mTLS from files. Changed files apply to a server's next connections (see `grpc_port.py`), and to a
client's next channel."""

import ssl
from pathlib import Path

import grpc

from cascade_core.errors import InvalidConfig
from services.common.settings import TlsSettings
from services.common.watched import WatchedFiles


def server_credentials(tls: TlsSettings) -> WatchedFiles[grpc.ServerCredentials] | None:
    """A server's side: another object when files have changed, each good for one server; None without a
    certificate: plain text."""
    if tls.certificate is None or tls.key is None:
        return None
    certificate, key, ca = tls.certificate, tls.key, tls.ca

    def load() -> grpc.ServerCredentials:
        pair, roots = (read(key), read(certificate)), read(ca) if ca else None
        try:
            ssl.create_default_context().load_cert_chain(certificate, key)
        except ssl.SSLError as error:  # in the middle of a change, for instance
            raise InvalidConfig(f"tls: {certificate}, {key}: {error}") from None
        return grpc.ssl_server_credentials([pair], roots, ca is not None)

    return WatchedFiles([path for path in (certificate, key, ca) if path], load)


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
    """A PEM file; anything else would fail at the first connection, without naming the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"tls: {error}") from None
    if b"-----BEGIN " not in content:
        raise InvalidConfig(f"tls: {path} is no PEM file")
    return content
