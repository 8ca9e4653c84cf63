"""Bounds the connections to a gRPC port, in all and of one address, and cuts none that is in play.

grpcio bounds what it accepts in all (`max_accepted`), and knows no addresses. So this looks at the sockets
and shuts down those that are too many. A connection that carries a call is in play: it stays, and beyond the
bound of its address no call is taken on another. Of the rest the oldest go first: what just came may be about
to call.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

import structlog

from services.common.addresses import is_within, network_of
from services.common.descriptors import SHARE_OF_ADDRESS, SHARE_OF_GRPC, within
from services.common.errors import Overloaded
from services.common.own_sockets import Line, Name, OwnSockets, plain
from services.common.settings import GrpcSettings

log = structlog.get_logger(__name__)
CALM_S, BUSY_S = 0.1, 0.02
"""Between two looks; the second after one that found too much. Until the next look a burst may take all
places, and newcomers are refused."""
EASE = 20
"""The least rest between two looks, as a multiple of what one takes: milliseconds, at thousands of
connections."""
MAX_TOLD = 8
"""Addresses in one line of the log."""
RESERVE = 8
"""Of the places that grpcio has, one in this many is kept free: else it refuses newcomers between two
looks."""


class Lines:
    """Of one port; `carry` tells which are in play."""

    def __init__(self, settings: GrpcSettings) -> None:
        self.max_accepted = within(settings.max_connections, SHARE_OF_GRPC)
        """By grpcio, which closes at once what comes beyond."""
        self._max = self.max_accepted - self.max_accepted // RESERVE
        per_address = settings.max_connections_per_address
        self._max_per_address = within(per_address, SHARE_OF_GRPC * SHARE_OF_ADDRESS)
        self._trusted = settings.trusted_proxies
        self._calls: Counter[Name] = Counter()
        self._in_play: Counter[str] = Counter()
        """Connections with calls, by network."""

    @contextmanager
    def carry(self, peer: str, *, is_health: bool) -> Iterator[None]:
        """While a call is under way; `peer`: as gRPC names the other side. Raises Overloaded where its
        address has no room for one more connection in play; health is answered even then."""
        name = name_of(peer)
        if name is None or (is_health and not self._has_room(name)):
            yield
            return
        if not self._has_room(name):
            number = self._max_per_address
            raise Overloaded(f"this address has calls on {number} connections, which is all it may have")
        self._begin(name)
        try:
            yield
        finally:
            self._end(name)

    async def keep_bounded(self, port: int) -> None:
        """Until cancelled."""
        try:
            sockets = OwnSockets(port)
        except FileNotFoundError as error:
            log.warning("connections without a call are bounded in all, not by address", missing=str(error))
            return
        was_calm = True
        while True:
            begun_s = time.perf_counter()
            lines = await asyncio.to_thread(sockets.lines, 1 + min(self._max, self._max_per_address))
            excess = self._excess(lines)
            for line in excess:
                line.shut_down()
            if excess and was_calm:
                networks = sorted({line.network for line in excess})
                log.warning("closing connections without a call", beyond_bound=networks[:MAX_TOLD])
            was_calm = not excess
            rest_s = EASE * (time.perf_counter() - begun_s)
            await asyncio.sleep(max(CALM_S if was_calm else BUSY_S, rest_s))

    def _excess(self, lines: list[Line]) -> list[Line]:
        """Which of these, the oldest first, have to go."""
        idle = [line for line in lines if line.name not in self._calls]
        beyond = self._beyond(lines)
        chosen: list[Line] = []
        others: list[Line] = []
        for line in idle:
            is_beyond = beyond[line.network] > 0
            beyond[line.network] -= is_beyond
            (chosen if is_beyond else others).append(line)
        return chosen + others[: max(0, len(lines) - len(chosen) - self._max)]

    def _beyond(self, lines: list[Line]) -> Counter[str]:
        """How many connections too many each address has."""
        beyond = Counter(line.network for line in lines)
        hosts = {line.network: line.name[0] for line in lines}
        for network, host in hosts.items():
            beyond[network] -= len(lines) if is_within(host, self._trusted) else self._max_per_address
        return beyond

    def _has_room(self, name: Name) -> bool:
        if name in self._calls or self._in_play[network_of(name[0])] < self._max_per_address:
            return True
        return is_within(name[0], self._trusted)

    def _begin(self, name: Name) -> None:
        if name not in self._calls:
            self._in_play[network_of(name[0])] += 1
        self._calls[name] += 1

    def _end(self, name: Name) -> None:
        self._calls[name] -= 1
        if self._calls[name]:
            return
        del self._calls[name]
        network = network_of(name[0])
        self._in_play[network] -= 1
        if not self._in_play[network]:
            del self._in_play[network]


def name_of(peer: str) -> Name | None:
    """Of `ipv4:127.0.0.1:80` or `ipv6:%5B::1%5D:80`; None: a Unix socket."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host, _, number = rest.rpartition(":")
    return plain(host.strip("[]")), int(number)
