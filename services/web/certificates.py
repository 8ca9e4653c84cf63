"""Whom a client certificate names, as uvicorn's TLS has verified it."""

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any

from services.common.auth import MAX_NAME_CHARS, is_name

CERTIFICATE_NAME = "certificate_name"
"""In a request's `state`."""


def certificate_name(transport: asyncio.Transport) -> str:
    """The best of its names, as a call over gRPC would have it; empty: there is none."""
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    names = names_in(connection) if connection else ()
    return next((name for name in names if is_name(name, MAX_NAME_CHARS)), "")


def names_in(connection: ssl.SSLObject) -> Iterator[str]:
    """URIs, DNS names, CN. Only a certificate that was verified has any here."""
    found: dict[str, Any] = connection.getpeercert() or {}
    alternatives = found.get("subjectAltName", ())
    for kind in ("URI", "DNS"):
        yield from (value for key, value in alternatives if key == kind)
    for part in found.get("subject", ()):
        yield from (value for key, value in part if key == "commonName")
