"""Who is here, by address: how many connections it has, and how often it shows no valid credential."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from services.common.addresses import is_within, network_of, parse
from services.common.descriptors import SHARE_OF_ADDRESS, SHARE_OF_HTTP, within
from services.web.settings import HttpSettings

BURST_S = 10.0
"""An address that was quiet for that long may send all at once what it may send in that time."""
MAX_ADDRESSES = 10_000
"""Addresses whose requests are counted; one whose count was dropped begins anew."""


class Crowd:
    """Of one server. An address is text, as `network_of` makes it."""

    def __init__(self, settings: HttpSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self.max_connections = within(settings.max_connections, SHARE_OF_HTTP)
        self._max_per_address = within(settings.max_connections_per_address, SHARE_OF_HTTP * SHARE_OF_ADDRESS)
        self._clock = clock
        self._proxies = ProxyHeadersMiddleware(nothing, list(forms_of(settings)))
        self._connected: Counter[str] = Counter()
        self._free_again_s: OrderedDict[str, float] = OrderedDict()
        """The clock when all that an address has used of its rate has come back."""

    def is_proxy(self, host: str) -> bool:
        """Whether what it says of others is believed."""
        return is_within(host, self._settings.trusted_proxies)

    async def client_of(self, host: str, forwarded: Sequence[bytes]) -> str:
        """The network of the client behind a connection from `host`; `forwarded`: its X-Forwarded-For, of
        which the last address that is no proxy of ours counts: what stands before it anybody can write.
        uvicorn reads it; where it finds no such address, the connection itself is the client."""
        if not forwarded or not self.is_proxy(host):
            return network_of(host)
        headers = [(b"x-forwarded-for", line) for line in forwarded]
        scope: Any = {"type": "http", "client": (host, 0), "headers": headers}
        await self._proxies(scope, nothing, nothing)
        client = scope["client"][0]
        return network_of(client if parse(client) and not self.is_proxy(client) else host)

    def enter(self, network: str) -> bool:
        """One more; False: it has too many, and is not counted."""
        if self._connected[network] >= self._max_per_address:
            return False
        self._connected[network] += 1
        return True

    def leave(self, network: str) -> None:
        self._connected[network] -= 1
        if self._connected[network] <= 0:
            del self._connected[network]

    def charge(self, network: str) -> None:
        """It came without a credential, or with a wrong one."""
        now = self._clock()
        free_again_s = max(now, self._free_again_s.pop(network, now))
        self._free_again_s[network] = free_again_s + 1 / self._settings.max_anonymous_per_s
        while len(self._free_again_s) > MAX_ADDRESSES:
            self._free_again_s.popitem(last=False)

    def wait_s(self, network: str) -> float:
        """Until it may come again; 0: now."""
        used_s = self._free_again_s.get(network, 0.0) - self._clock()
        return max(0.0, used_s - BURST_S)


async def nothing(*_: Any) -> Any:
    """The application that uvicorn reads the headers for: we want the address alone, not the scheme that a
    proxy tells."""


def forms_of(settings: HttpSettings) -> Iterator[str]:
    """The proxies' networks, those of IPv4 also in IPv6's form, as a socket for both names them."""
    for network in settings.trusted_proxies:
        yield str(network)
        if network.version == 4:
            yield f"::ffff:{network.network_address}/{96 + network.prefixlen}"
