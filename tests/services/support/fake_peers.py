"""Stages and decoders that only report: real servers on loopback, and a pool without a network."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from cascade.v1 import common_pb2, decoder_pb2, decoder_pb2_grpc, stage_pb2, stage_pb2_grpc
from services.gateway.peers.endpoints import Endpoint, Pod
from services.gateway.peers.peer import Peer

READY, DRAINING = common_pb2.SERVING_STATE_READY, common_pb2.SERVING_STATE_DRAINING
RESTARTING = common_pb2.SERVING_STATE_RESTARTING
MAX_PIXELS = 1280 * 720


def stage_status(
    *, instance: str = "one", model: str = "demo", revision: str = "r1", **fields: Any
) -> stage_pb2.StageStatus:
    """A ready stage for four sessions."""
    info = stage_pb2.ModelInfo(
        model=model, revision=revision, width=832, height=480, fps=16, block_frames=3, max_pixels=MAX_PIXELS
    )
    server = common_pb2.ServerInfo(instance_id=instance)
    return stage_pb2.StageStatus(
        server=server, model=info, **{"state": READY, "max_sessions": 4, "message": "", **fields}
    )


def decoder_status(
    *, instance: str = "one", models: tuple[str, ...] = ("demo",), **fields: Any
) -> decoder_pb2.DecoderStatus:
    """A ready decoder for four sessions."""
    return decoder_pb2.DecoderStatus(
        server=common_pb2.ServerInfo(instance_id=instance),
        models=models,
        **{
            "state": READY,
            "max_sessions": 4,
            "encoders": [common_pb2.VIDEO_ENCODER_SOFTWARE],
            "warmup_blocks": 2,
            **fields,
        },
    )


class FakePeer:
    """A server whose WatchStatus shows what a test sets."""

    def __init__(
        self, status: Any, key: str | None = None, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        """`key`: the only one that it takes. `credentials`: of TLS."""
        self.status = status
        self.address = "127.0.0.1:0"
        self.is_silent = False
        self.num_watchers = 0
        self.num_calls = 0
        self._key = key
        self._credentials = credentials
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """At the same address as before."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        if isinstance(self.status, stage_pb2.StageStatus):
            stage_pb2_grpc.add_StageServiceServicer_to_server(self, self._server)
        else:
            decoder_pb2_grpc.add_DecoderServiceServicer_to_server(self, self._server)
        if self._credentials:
            port = self._server.add_secure_port(self.address, self._credentials)
        else:
            port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def kill(self) -> None:
        """As a process that dies: all streams break, nobody listens."""
        if self._server:
            await self._server.stop(None)
        self._server = None

    def set(self, **fields: Any) -> None:
        """Change the status, and report it."""
        for name, value in fields.items():
            setattr(self.status, name, value)
        self._wake()

    def become(self, instance: str) -> None:
        """Report as another process."""
        self.status.server.instance_id = instance
        self._wake()

    def silence(self, is_silent: bool) -> None:
        """As under SIGSTOP: the connection stays, nothing comes."""
        self.is_silent = is_silent
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.num_calls += 1
        if self._key and ("authorization", f"Bearer {self._key}") not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        kind = type(self.status).__name__.removesuffix("Status")
        module: Any = stage_pb2 if kind == "Stage" else decoder_pb2
        make: Callable[..., Any] = getattr(module, f"{kind}ServiceWatchStatusResponse")
        self.num_watchers += 1
        try:
            while True:
                changed = self._changed
                if not self.is_silent:
                    yield make(status=self.status)
                async with quietly(request.interval.ToMilliseconds() / 1000):
                    await changed.wait()
        finally:
            self.num_watchers -= 1

    def Generate(self, requests: Any, context: Any) -> None:
        raise NotImplementedError

    Decode = Drain = Encode = Generate


@asynccontextmanager
async def quietly(limit_s: float) -> AsyncIterator[None]:
    """At most so long."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        pass


@asynccontextmanager
async def serving(*peers: FakePeer) -> AsyncIterator[None]:
    """All of them, as long as the block lasts."""
    try:
        for peer in peers:
            await peer.start()
        yield
    finally:
        for peer in peers:
            await peer.kill()


class FakeEndpoints:
    """Addresses that a test changes."""

    def __init__(self, *addresses: str) -> None:
        self.sets: asyncio.Queue[frozenset[Endpoint] | Exception] = asyncio.Queue()
        self.set(*addresses)

    def set(self, *servers: str | Endpoint) -> None:
        """Addresses, or what else is known of them."""
        self.sets.put_nowait(
            frozenset(Endpoint(server) if isinstance(server, str) else server for server in servers)
        )

    def fail(self) -> None:
        self.sets.put_nowait(ConnectionError("the API server is away"))

    async def watch(self) -> AsyncGenerator[frozenset[Endpoint], None]:
        while True:
            endpoints = await self.sets.get()
            if isinstance(endpoints, Exception):
                raise endpoints
            yield endpoints


class FakePool:
    """As `Pool`, with reports that a test makes up, at once."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer[Any]] = {}
        self._listeners: list[Callable[[Peer[Any]], None]] = []

    def listen(self, listener: Callable[[Peer[Any]], None]) -> None:
        self._listeners.append(listener)

    def report(self, address: str, status: Any, pod: Pod | None = None) -> Peer[Any]:
        """The peer's newest report; its first makes it known. The status may be used again."""
        if address not in self.peers:
            self.peers[address] = Peer(address, None, pod)
        copy = type(status)()
        copy.CopyFrom(status)
        self.peers[address].report(copy)
        return self._tell(self.peers[address])

    def lose(self, address: str) -> None:
        self.peers[address].lose("lost")
        self._tell(self.peers[address])

    def terminate(self, address: str) -> None:
        """Kubernetes told it to go."""
        peer = self.peers[address]
        peer.notice(Endpoint(address, peer.pod, is_terminating=True))
        self._tell(peer)

    def drop(self, address: str) -> None:
        """Not listed any more."""
        self._tell(self.peers.pop(address))

    def _tell(self, peer: Peer[Any]) -> Peer[Any]:
        for listener in self._listeners:
            listener(peer)
        return peer
