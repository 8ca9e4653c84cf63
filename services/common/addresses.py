"""Addresses as people and clusters write them, and which count as one where callers are bounded by
address."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

PREFIX_V6 = 64
"""Bits of a prefix: whoever has one IPv6 address has all of this network around it."""
SCHEME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):(?!\d+$).+")
"""Of gRPC's own names, such as `dns:///stages:50061`; `dns:53` is a host with its port."""
NAME = re.compile(r"[A-Za-z0-9_.-]+")
Address = IPv4Address | IPv6Address
AnyNetwork = IPv4Network | IPv6Network


def network_of(host: str) -> str:
    """What counts as one address."""
    address = parse(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, PREFIX_V6), strict=False))
    return str(address or host)


def is_within(host: str, networks: Iterable[AnyNetwork]) -> bool:
    """Whether it is an address of one of these."""
    address = parse(host)
    return address is not None and any(address in network for network in networks)


def is_everywhere(host: str) -> bool:
    """Whether it can be listened on but not called."""
    address = parse(host)
    return address is not None and address.is_unspecified


def parse(host: str) -> Address | None:
    """None: no address. An IPv4 address in IPv6's form is an IPv4 one; a zone is left out."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def join(host: str, port: int) -> str:
    """`host:port`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_host(host: str) -> str:
    """Without brackets. Raises ValueError for what is neither a name nor an address."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (":" in bare and parse(bare)) or (bare == host and NAME.fullmatch(bare)):
        return bare
    raise ValueError("must be a name or an address without port, such as 0.0.0.0, :: or ::1")


def check_target(target: str) -> str:
    """What gRPC can call. Raises ValueError."""
    if SCHEME.fullmatch(target):
        return target
    host, _, port = target.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not is_bracketed and parse(host):
        raise ValueError(f"an IPv6 address stands in brackets, such as [{host}]:{port}")
    is_port = port.isascii() and port.isdigit() and 0 <= int(port) <= 65535
    try:
        check_host(host)
    except ValueError:
        is_port = False
    if not is_port:
        raise ValueError("must be HOST:PORT, such as stage:50061, 10.0.0.5:50061 or [fd00::5]:50061")
    return target


def check_own_target(target: str) -> str:
    """As `check_target`, for an address that a cluster has put before a port, whichever kind it is."""
    host, _, port = target.rpartition(":")
    bare = host.strip("[]")
    return check_target(f"{f'[{bare}]' if ':' in bare else bare}:{port}" if parse(bare) else target)


def read_network(text: object) -> object:
    """From an address or a network; an IPv4 one in IPv6's form is an IPv4 one. Raises ValueError."""
    if not isinstance(text, str):
        return text
    try:
        network = ip_network(text.partition("%")[0] if "/" not in text else text)
    except ValueError:
        raise ValueError(
            "must be an address or a network, such as 10.0.0.5, 10.0.0.0/8 or fd00::/8"
        ) from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return IPv4Network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network


ListenHost = Annotated[str, AfterValidator(check_host)]
"""A setting: where to listen."""
Target = Annotated[str, AfterValidator(check_target)]
"""A setting: what to call."""
NETWORK_SCHEMA = WithJsonSchema({"type": "string", "format": "ipvanynetwork"})
OwnTarget = Annotated[str, AfterValidator(check_own_target)]
"""A setting: where others call this process."""
Network = Annotated[AnyNetwork, BeforeValidator(read_network), NETWORK_SCHEMA]
"""A setting: an address or a network of others."""
