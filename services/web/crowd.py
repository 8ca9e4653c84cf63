"""Who is here, by address: how many connections it has, and how often it shows no valid credential."""

import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from services.web.settings import HttpSettings

BURST_S = 10.0
"""An address that was quiet for that long may come as often at once."""
MAX_ADDRESSES = 10_000
"""Noted for their requests; one whose note went begins anew."""
WITH_PORT = re.compile(r"([\d.]+):\d+|\[(.+)\](?::\d+)?")
PREFIX_V6 = 64
"""Whoever has one IPv6 address has as many as this network holds."""
Address = IPv4Address | IPv6Address


class Crowd:
    """Of one server. An address is text, as `place_of` makes it."""

    def __init__(self, settings: HttpSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._connected: Counter[str] = Counter()
        self._free_again_s: OrderedDict[str, float] = OrderedDict()
        """The clock when all that an address has used of its rate has come back."""

    def is_proxy(self, host: str) -> bool:
        """Whether what it says of others is believed."""
        address = parse(host)
        return bool(address) and any(address in network for network in self._settings.trusted_proxies)

    def client_of(self, host: str, forwarded: Sequence[str]) -> str:
        """The place of the client behind a connection from `host`; `forwarded`: its X-Forwarded-For, of which
        the last address that is no proxy of ours counts: what stands before it anybody can write."""
        hops = [part.strip() for line in forwarded for part in line.split(",")] if self.is_proxy(host) else []
        for hop in reversed(hops):
            if parse(hop) is None:
                break
            if not self.is_proxy(hop):
                return place_of(hop)
        return place_of(host)

    def enter(self, place: str) -> bool:
        """One more; False: it has too many, and is not counted."""
        if self._connected[place] >= self._settings.max_connections_per_address:
            return False
        self._connected[place] += 1
        return True

    def leave(self, place: str) -> None:
        self._connected[place] -= 1
        if self._connected[place] <= 0:
            del self._connected[place]

    def charge(self, place: str) -> None:
        """It came without a credential, or with a wrong one."""
        now = self._clock()
        free_again_s = max(now, self._free_again_s.pop(place, now))
        self._free_again_s[place] = free_again_s + 1 / self._settings.max_anonymous_per_s
        while len(self._free_again_s) > MAX_ADDRESSES:
            self._free_again_s.popitem(last=False)

    def wait_s(self, place: str) -> float:
        """Until it may come again; 0: now."""
        used_s = self._free_again_s.get(place, 0.0) - self._clock()
        return max(0.0, used_s - BURST_S)


def place_of(host: str) -> str:
    """What counts as one address."""
    address = parse(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, PREFIX_V6), strict=False))
    return str(address or host)


def parse(host: str) -> Address | None:
    """None: no address. One of IPv4 in IPv6's form is one of IPv4; some proxies write a port behind it."""
    found = WITH_PORT.fullmatch(host)
    try:
        address = ip_address((found[1] or found[2] if found else host).partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
