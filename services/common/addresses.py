"""Who counts as one address, where callers are bounded by theirs."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

PREFIX_V6 = 64
"""Whoever has one IPv6 address has as many as this network holds."""
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def network_of(host: str) -> str:
    """What counts as one address."""
    address = parse(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, PREFIX_V6), strict=False))
    return str(address or host)


def is_within(host: str, networks: Iterable[Network]) -> bool:
    """Whether it is an address of one of these."""
    address = parse(host)
    return bool(address) and any(address in network for network in networks)


def parse(host: str) -> Address | None:
    """None: no address. One of IPv4 in IPv6's form is one of IPv4."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
