"""Where stages and decoders are."""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Pod:
    """Who serves at an address, where Kubernetes tells."""

    name: str
    uid: str
    """Differs from that of any other pod, also of an earlier one at the same address."""


@dataclass(frozen=True)
class Endpoint:
    """One server: two endpoints of one server would count its places twice."""

    address: str
    """`host:port`, an IPv6 host in brackets."""
    pod: Pod | None = None
    """None: not known to be a pod."""
    is_terminating: bool = False
    """It was told to go: its sessions should move away, as if it had said `Draining`."""


class Endpoints(Protocol):
    """All servers of one kind, one Endpoint per address, ready or not: their own reports tell that."""

    def watch(self) -> AsyncGenerator[frozenset[Endpoint], None]:
        """The whole set, now and at each change; ends when it cannot change any more. To be closed."""
        ...


class StaticEndpoints:
    """A list that stays as it is."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._endpoints = frozenset(Endpoint(address) for address in addresses)

    async def watch(self) -> AsyncGenerator[frozenset[Endpoint], None]:
        yield self._endpoints
