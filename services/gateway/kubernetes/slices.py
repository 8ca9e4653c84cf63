"""EndpointSlices, as endpoints. What cannot be read is left out, so that one bad entry hides no other."""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from itertools import groupby
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from services.gateway.peers.endpoints import Endpoint, Pod

M = TypeVar("M", bound=BaseModel)
MAX_PORT = 65535


class Conditions(BaseModel):
    """`ready` and `serving` are not looked at: a server that is not ready says why on its status stream."""

    terminating: bool | None = None
    """None counts as False, as the API says."""


class Target(BaseModel):
    """What is behind an address."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class SliceEndpoint(BaseModel):
    """One entry."""

    addresses: list[str] = Field(min_length=1)
    """All of one server; consumers use the first, as the API says."""
    conditions: Conditions | None = None
    target: Target | None = Field(default=None, alias="targetRef")


class SlicePort(BaseModel):
    """Of all entries of a slice."""

    name: str | None = None
    port: int | None = Field(default=None, ge=1, le=MAX_PORT)


class Slice(BaseModel):
    """One EndpointSlice."""

    address_type: str = Field(alias="addressType")
    endpoints: list[Any] | None = None
    ports: list[Any] | None = None

    def read(self, port_name: str) -> frozenset[Endpoint]:
        """Its servers, at the port of this name."""
        ports = (parsed(SlicePort, port) for port in self.ports or ())
        number = next((port.port for port in ports if port and port.port and port.name == port_name), None)
        if number is None:
            return frozenset()
        entries = (parsed(SliceEndpoint, entry) for entry in self.endpoints or ())
        return frozenset(
            Endpoint(address, pod_of(entry.target), is_terminating(entry))
            for entry in entries
            if entry and (address := join(entry.addresses[0], self.address_type, number))
        )


def parsed(kind: type[M], raw: Any) -> M | None:
    """None for what is not of this kind."""
    try:
        return kind.model_validate(raw)
    except ValidationError:
        return None


def pod_of(target: Target | None) -> Pod | None:
    if target is None or target.kind != "Pod" or not (target.name and target.uid):
        return None
    return Pod(target.name, target.uid)


def is_terminating(entry: SliceEndpoint) -> bool:
    return bool(entry.conditions and entry.conditions.terminating)


def join(host: str, address_type: str, port: int) -> str | None:
    """`host:port`; None where the host is not what the slice says."""
    if address_type == "FQDN":
        return f"{host}:{port}" if host else None
    try:
        version = ip_address(host).version
    except ValueError:
        return None
    if address_type != f"IPv{version}":
        return None
    return f"[{host}]:{port}" if version == 6 else f"{host}:{port}"


def merge(parts: Iterable[frozenset[Endpoint]]) -> frozenset[Endpoint]:
    """One endpoint per server and one per address. While the cluster moves entries between slices one may
    stand in two; of a dual-stack pod IPv4 is used; an address that two pods claim belongs to the one that
    stays."""
    entries = frozenset[Endpoint]().union(*parts)
    leaving = {key(entry) for entry in entries if entry.is_terminating}
    servers = (
        Endpoint(entry.address, entry.pod, key(entry) in leaving)
        for entry in first_of(sorted(entries, key=lambda entry: (key(entry), is_ipv6(entry), entry.address)))
    )
    claims = sorted(servers, key=lambda entry: (entry.address, entry.is_terminating, key(entry)))
    return frozenset(next(group) for _, group in groupby(claims, key=lambda entry: entry.address))


def first_of(entries: Iterable[Endpoint]) -> Iterator[Endpoint]:
    """Of entries in the order of their servers, the first of each."""
    return (next(group) for _, group in groupby(entries, key=key))


def key(entry: Endpoint) -> str:
    """Of the server."""
    return entry.pod.uid if entry.pod else entry.address


def is_ipv6(entry: Endpoint) -> bool:
    return entry.address.startswith("[")
