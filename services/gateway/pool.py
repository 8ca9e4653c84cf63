"""All stages, or all decoders: one status stream to each, for as long as it is there."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Generic

import grpc
import structlog

from services.common.channel import common_options
from services.common.tls import channel_credentials
from services.gateway.endpoints import Endpoints
from services.gateway.link import credential
from services.gateway.peer import Peer, S, instance_of
from services.gateway.reports import Backoff, Kind, Lost, reports
from services.gateway.settings import GatewaySettings, PeerSettings
from services.gateway.wakeup import Wakeup

__all__ = ["Peer", "Pool"]
log = structlog.get_logger(__name__)
CHANNEL_OPTIONS = [
    ("grpc.enable_retries", 0),  # as in services.common.channel
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
        self._peers: dict[str, Peer[S]] = {}
        self._leaving: dict[str, Peer[S]] = {}  # not listed any more, but alive: sessions use the channel
        self._tasks: dict[Peer[S], asyncio.Task[None]] = {}
        self._discovery: asyncio.Task[None] | None = None
        self._wakeup = Wakeup()
        self._listeners: list[Callable[[Peer[S]], None]] = []

    @property
    def peers(self) -> Mapping[str, Peer[S]]:
        """By address: those that are listed, gone or not."""
        return self._peers

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
        backoff = Backoff()
        while True:
            try:
                async for addresses in self._endpoints.watch():
                    self._update(addresses)
                    backoff.reset()
                return
            except Exception:
                log.exception("no news of addresses; those known stay", kind=self.kind)
            await backoff.wait()

    def _update(self, addresses: frozenset[str]) -> None:
        for address in self._peers.keys() - addresses:
            self._drop(self._peers.pop(address))
        for address in sorted(addresses - self._peers.keys()):
            self._peers[address] = (
                self._leaving.pop(address) if address in self._leaving else self._add(address)
            )
            self._tell(self._peers[address])

    def _drop(self, peer: Peer[S]) -> None:
        if peer.is_gone:
            self._tasks[peer].cancel()
        else:
            self._leaving[peer.address] = peer
        self._tell(peer)

    def _add(self, address: str) -> Peer[S]:
        peer: Peer[S] = Peer(address, self._open_channel(address))
        self._tasks[peer] = task = asyncio.create_task(self._keep(peer), name=f"watch {address}")
        task.add_done_callback(lambda _: self._tasks.pop(peer))
        return peer

    def _open_channel(self, address: str) -> grpc.aio.Channel:
        options = [*common_options(self._peer_settings.grpc()), *CHANNEL_OPTIONS]
        tls = self._peer_settings.credentials()
        if tls is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, channel_credentials(tls), options)

    async def _keep(self, peer: Peer[S]) -> None:
        """Follow a peer until it is gone and not listed any more."""
        backoff = Backoff()
        try:
            while True:
                self._lose(peer, await self._follow(peer, backoff))
                if self._leaving.get(peer.address) is peer:
                    return
                await backoff.wait()
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
