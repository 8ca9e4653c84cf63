"""All stages, or all decoders: one status stream to each, for as long as it is there."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Generic

import grpc
import structlog

from services.common.backoff import Backoff
from services.common.channel import ChannelFactory
from services.common.wakeup import Wakeup
from services.gateway.base.settings import GatewaySettings, PeerSettings
from services.gateway.peers.endpoints import Endpoint, Endpoints
from services.gateway.peers.peer import Peer, S, instance_of
from services.gateway.peers.reports import Kind, Lost, reports
from services.gateway.peers.stream import credential

__all__ = ["Peer", "Pool"]
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 2.0
log = structlog.get_logger(__name__)
CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # also what a connection attempt may take; by default 20 s
    ("grpc.max_reconnect_backoff_ms", 2000),  # by default 2 min, however often we ask
    ("grpc.dns_min_time_between_resolutions_ms", 1000),  # a pod that was replaced has another address
]


class Pool(Generic[S]):
    """The peers of one kind, always as they last reported."""

    def __init__(
        self, kind: Kind, endpoints: Endpoints, settings: GatewaySettings, peer: PeerSettings
    ) -> None:
        self.kind = kind
        self._endpoints = endpoints
        self._interval_s = settings.status_interval_s
        self._peer_settings = peer
        self._channels = ChannelFactory(peer.grpc(), peer.credentials(), CHANNEL_OPTIONS)
        self._peers: dict[str, Peer[S]] = {}
        self.is_listed = False
        """Whether the list of addresses has come, be it empty."""
        self._leaving: dict[str, Peer[S]] = {}  # not listed any more, but alive: sessions use the channel
        self._tasks: dict[Peer[S], asyncio.Task[None]] = {}
        self._discovery: asyncio.Task[None] | None = None
        self._wakeup = Wakeup()
        self._listeners: list[Callable[[Peer[S]], None]] = []

    @property
    def peers(self) -> Mapping[str, Peer[S]]:
        """By address: those that are listed, gone or not."""
        return self._peers

    @property
    def leaving(self) -> Mapping[str, Peer[S]]:
        """By address: those that are not listed any more and serve sessions still."""
        return self._leaving

    async def start(self) -> None:
        """Begin to follow; returns before anybody has reported."""
        self._discovery = asyncio.create_task(self._discover(), name=f"discover {self.kind}s")

    async def close(self) -> None:
        """Leave all peers; whoever waits for one to be gone is told so."""
        tasks = [*self._tasks.values(), *([self._discovery] if self._discovery else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def changed(self) -> None:
        """Until the next report, loss, arrival or departure of a peer."""
        await self._wakeup.wait()

    def listen(self, listener: Callable[[Peer[S]], None]) -> None:
        """Call it, at once, with each peer that reported, was lost, came or went."""
        self._listeners.append(listener)

    def _tell(self, peer: Peer[S]) -> None:
        for listener in self._listeners:
            listener(peer)
        self._wakeup.fire()

    async def _discover(self) -> None:
        backoff = Backoff(FIRST_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            try:
                async with aclosing(self._endpoints.watch()) as changes:
                    async for endpoints in changes:
                        self._update(endpoints)
                        backoff.reset()
                return
            except Exception:
                log.exception("no news of addresses; those known stay", kind=self.kind)
            await backoff.wait()

    def _update(self, endpoints: frozenset[Endpoint]) -> None:
        self.is_listed = True
        listed = {endpoint.address: endpoint for endpoint in endpoints}
        for address, peer in list(self._peers.items()):
            if address not in listed:
                self._drop(self._peers.pop(address))
            elif not peer.is_at(listed[address]):
                self._replace(self._peers.pop(address))
        for address in sorted(listed):
            endpoint, is_new = listed[address], address not in self._peers
            if is_new:
                self._peers[address] = self._revive(endpoint) or self._add(endpoint)
            if self._peers[address].notice(endpoint) or is_new:
                self._tell(self._peers[address])

    def _drop(self, peer: Peer[S]) -> None:
        if peer.is_gone:
            self._tasks[peer].cancel()
        else:
            self._leaving[peer.address] = peer
        self._tell(peer)

    def _replace(self, peer: Peer[S]) -> None:
        """Another pod has its address, so it is gone, whatever the connection says."""
        self._lose(peer, "another pod has this address")
        self._tasks[peer].cancel()
        self._tell(peer)

    def _revive(self, endpoint: Endpoint) -> Peer[S] | None:
        """The peer that was on the list before, if it is still the same."""
        peer = self._leaving.pop(endpoint.address, None)
        if peer and not peer.is_at(endpoint):
            self._replace(peer)
            return None
        return peer

    def _add(self, endpoint: Endpoint) -> Peer[S]:
        address = endpoint.address
        peer: Peer[S] = Peer(address, self._open_channel(address), endpoint.pod)
        self._tasks[peer] = task = asyncio.create_task(self._keep(peer), name=f"watch {address}")
        task.add_done_callback(lambda _: self._tasks.pop(peer))
        return peer

    def _open_channel(self, address: str) -> grpc.aio.Channel:
        return self._channels.open(address)

    async def _keep(self, peer: Peer[S]) -> None:
        """Follow a peer until it is gone and not listed any more."""
        backoff, credentials = Backoff(FIRST_BACKOFF_S, MAX_BACKOFF_S), self._channels.credentials
        try:
            while True:
                self._lose(peer, await self._follow(peer, backoff))
                if self._leaving.get(peer.address) is peer:
                    return
                await backoff.wait()
                if (newest := self._channels.credentials) is not credentials:
                    credentials = newest
                    await peer.channel.close()
                    peer.channel = self._open_channel(peer.address)
        finally:
            if self._leaving.get(peer.address) is peer:
                del self._leaving[peer.address]
            self._lose(peer, "is not followed any more")
            await peer.channel.close()

    async def _follow(self, peer: Peer[S], backoff: Backoff) -> str:
        """Take its reports; returns why there are no more."""
        try:
            metadata = credential(self._peer_settings.api_key_file)
            async with aclosing(reports(self.kind, peer.channel, self._interval_s, metadata)) as stream:
                async for status in stream:
                    self._take(peer, status)
                    backoff.reset()
        except Lost as lost:
            return str(lost)
        except Exception as error:
            log.exception("cannot follow", kind=self.kind, address=peer.address)
            return f"cannot be followed: {error}"
        raise AssertionError("reports end with an error")

    def _take(self, peer: Peer[S], status: S) -> None:
        if peer.instance_id != instance_of(status):
            log.info("reports", kind=self.kind, address=peer.address, instance=instance_of(status))
        peer.report(status)
        self._tell(peer)

    def _lose(self, peer: Peer[S], reason: str) -> None:
        was_there = not peer.is_gone
        peer.lose(reason)
        if was_there:
            log.warning("gone", kind=self.kind, address=peer.address, reason=reason)
            self._tell(peer)
