"""Origins: where a page is from, as browsers tell it, and whether that is the place that it calls.

A call names that place in `Host`, which a proxy may replace, or take the port from (nginx's `$host`). So what
is known is compared, and browsers are believed, for whom pages cannot speak:

- `Sec-Fetch-Site`: "same-origin" is the place itself, "same-site" and "cross-site" are not. Browsers send it
  over https and to localhost, Chromium not with WebSockets.
- Without it: scheme, host and port. A `Host` without a port means the scheme's own. But if our port is no
  scheme's own, something maps ports: which one was called is not known, and hosts alone are compared.
- Beside `Host`, what a trusted proxy says in X-Forwarded-Host, -Port and -Proto.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

from starlette.requests import HTTPConnection

DEFAULT_PORTS = {"http": 80, "https": 443}
"""Of pages of the web."""
SECURE = ("https", "wss")
URL = re.compile(r"([a-z][a-z0-9+.-]*)://([^\s/?#@\\,*]*)")
PLACE = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(\d{0,5}))?")
NULL = "null"


@dataclass(frozen=True)
class Origin:
    """Equal ones are one origin, however they are written."""

    scheme: str
    host: str
    port: int | None = None
    """None: a scheme without ports, such as those of desktop and mobile shells."""


def read_origin(text: str) -> Origin | None:
    """None: it is none that a browser sends. `null` is what pages without an origin of their own say."""
    text = text.lower()
    if text == NULL:
        return Origin("", NULL)
    url = URL.fullmatch(text)
    if not url or url[1] in ("ws", "wss"):
        return None
    if url[1] not in DEFAULT_PORTS:
        return Origin(url[1], url[2])
    place = read_place(url[2])
    return place and Origin(url[1], place[0], place[1] or DEFAULT_PORTS[url[1]])


def read_place(text: str) -> tuple[str, int | None] | None:
    """Host and port of `HOST[:PORT]`; None: it is no such thing."""
    place = PLACE.fullmatch(text.lower())
    if not place:
        return None
    host, port = place[1], int(place[2]) if place[2] else None
    if port is not None and not 0 < port < 2**16:
        return None
    if not host.startswith("["):
        return host.removesuffix("."), port
    try:
        return str(IPv6Address(host[1:-1])), port
    except ValueError:
        return None


def is_own(origin: Origin, connection: HTTPConnection, is_proxy: bool) -> bool:
    """Whether the page is of the place that it calls. `is_proxy`: the connection is a trusted one's."""
    headers = connection.headers
    site = headers.get("sec-fetch-site")
    if site in ("same-origin", "same-site", "cross-site"):
        return site == "same-origin"

    def forwarded(name: str) -> list[str]:
        lines = headers.getlist(f"x-forwarded-{name}") if is_proxy else []
        return [part.strip().lower() for line in lines for part in line.split(",")]

    scheme = (forwarded("proto") or [connection.scope["scheme"]])[0]
    if origin.scheme not in DEFAULT_PORTS or (scheme in SECURE and origin.scheme == "http"):
        return False  # the other way round it may be: not every proxy tells that it speaks TLS
    ports = forwarded("port")
    is_unsaid_port = (
        origin.port == DEFAULT_PORTS[origin.scheme]
        or str(origin.port) in ports
        or (not ports and is_mapped(connection))
    )
    places = filter(None, map(read_place, (headers.get("host", ""), *forwarded("host"))))
    return any(
        host == origin.host and (is_unsaid_port if port is None else port == origin.port)
        for host, port in places
    )


def is_mapped(connection: HTTPConnection) -> bool:
    """Whether a browser that named no port cannot have come straight to ours."""
    return (connection.scope.get("server") or (None, None))[1] not in DEFAULT_PORTS.values()
