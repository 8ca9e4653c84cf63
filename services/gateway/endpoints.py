"""Where stages and decoders are."""

from collections.abc import AsyncIterator, Iterable
from typing import Protocol


class Endpoints(Protocol):
    """Addresses, `host:port`, one per server: two names of one server count its places twice."""

    def watch(self) -> AsyncIterator[frozenset[str]]:
        """The whole set, now and at each change; ends when it cannot change any more."""
        ...


class StaticEndpoints:
    """A list that stays as it is."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._addresses = frozenset(addresses)

    async def watch(self) -> AsyncIterator[frozenset[str]]:
        yield self._addresses
