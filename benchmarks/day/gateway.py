"""The gateway's own admission, pools and keepers, with sessions and stages that make no video.

Real: Pool, Peer, Ledger, Claim, Admission, Pace, Place, Keeper. Simulated: the network between them and the
stages (`DirectPool`, `SimulatedStream`), the video, and one decoder with room for everybody.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, cast

import grpc

from benchmarks.day.demand import Visit
from benchmarks.day.pods import MODEL, Pod, Refused
from benchmarks.day.replica_set import ReplicaSet
from benchmarks.day.virtual_time import now
from cascade.v1 import common_pb2, decoder_pb2, stage_pb2
from cascade_core.config import make
from services.common.backoff import Backoff
from services.common.errors import Draining
from services.common.race import race
from services.gateway.base.settings import GatewaySettings, PeerSettings
from services.gateway.peers.endpoints import Endpoints, StaticEndpoints
from services.gateway.peers.pool import Peer, Pool
from services.gateway.peers.reports import Kind
from services.gateway.peers.stream import StreamLost
from services.gateway.placement.admission import Admission
from services.gateway.placement.ledger import Place
from services.gateway.placement.needs import Needs
from services.gateway.session.keeper import Keeper
from services.gateway.session.over import SessionOver, or_over

HEARTBEAT_S = 60.0
"""The longest that the settings allow: changes are reported at once, and no stage falls silent here."""
NETWORK_S = 0.01
EVERYBODY = 1_000_000


class NoChannel:
    """Nothing is sent over it."""

    async def close(self) -> None: ...


class DirectPool(Pool[Any]):
    """A pool whose status streams come from this process."""

    def __init__(
        self,
        kind: Kind,
        endpoints: Endpoints,
        settings: GatewaySettings,
        watch: Callable[[str], AsyncIterator[Any]],
    ) -> None:
        """`watch`: the reports of the process at an address, for as long as it is there."""
        super().__init__(kind, endpoints, settings, make(PeerSettings, {}))
        self._watch = watch

    def _open_channel(self, address: str) -> grpc.aio.Channel:
        return cast(grpc.aio.Channel, NoChannel())

    async def _follow(self, peer: Peer[Any], backoff: Backoff) -> str:
        async for status in self._watch(peer.address):
            await asyncio.sleep(NETWORK_S)
            self._take(peer, status)
            backoff.reset()
        return "ended its status stream"


@dataclass
class Story:
    """What became of a visit."""

    visit: Visit
    wait_s: float | None = None
    """From its arrival to its first place; None: it has none yet."""
    left_s: float = 0.0
    """Of its video, still to be made."""
    num_moves: int = 0
    """Live, from a stage that drained."""
    num_cuts: int = 0
    """A stage ended its stream before its time."""
    num_refusals: int = 0
    """A stage did not take it: somebody else was there first."""
    has_failed: bool = False
    """No stage was found in time after a loss."""
    end_s: float | None = None
    made: asyncio.Event = field(default_factory=asyncio.Event)
    """All of its video."""


class SimulatedStream:
    """One Generate stream (services.gateway.session.keeper.PeerStream)."""

    def __init__(self, pod: Pod | None, address: str, story: Story) -> None:
        self.is_open = False
        self.on_open: Callable[[], None] = lambda: None
        self._pod = pod
        self._address = address
        self._story = story
        self._closed = asyncio.Event()

    async def run(self) -> None:
        if self._pod is None:
            raise StreamLost(f"{self._address}: nobody listens")
        opened = asyncio.Event()
        try:
            await race(self._generate(self._pod, opened), self._closed.wait(), self._count(opened))
        except (Refused, Draining) as error:
            raise StreamLost(str(error)) from None

    def close(self) -> None:
        self._closed.set()

    async def _generate(self, pod: Pod, opened: asyncio.Event) -> None:
        await pod.generate(self._story.visit.name, opened, self._story.left_s)
        self._story.made.set()

    async def _count(self, opened: asyncio.Event) -> None:
        await opened.wait()
        self.is_open = True
        self.on_open()
        start, left_s = now(), self._story.left_s
        try:
            await asyncio.Event().wait()
        finally:
            self._story.left_s = max(0.0, left_s - (now() - start))


class Gateway:
    """One gateway of the cluster."""

    def __init__(self, replica_set: ReplicaSet, **settings: Any) -> None:
        """`settings`: fields of GatewaySettings."""
        self.settings = make(GatewaySettings, {"status_interval_s": HEARTBEAT_S, **settings})
        self._replica_set = replica_set
        self.stages: Pool[stage_pb2.StageStatus] = DirectPool(
            "stage", replica_set, self.settings, self._watch_stage
        )
        self.decoders: Pool[decoder_pb2.DecoderStatus] = DirectPool(
            "decoder", StaticEndpoints(["decoder"]), self.settings, watch_decoder
        )
        self.admission = Admission(self.settings, self.stages, self.decoders, now)

    async def start(self) -> None:
        await self.stages.start()
        await self.decoders.start()

    async def close(self) -> None:
        self.admission.close()
        await self.stages.close()
        await self.decoders.close()

    async def play(self, story: Story) -> None:
        """A session from its arrival to its end, as Conductor and Production run it."""
        needs = Needs(story.visit.name, "day", MODEL.model, width=MODEL.width, height=MODEL.height)
        story.left_s = story.visit.length_s
        try:
            stage, decoder = await self.admission.enqueue(needs).wait()
            story.wait_s = now() - story.visit.arrival_s
            try:
                await self._stay(story, needs, stage)
            finally:
                decoder.release()
        except SessionOver:
            story.has_failed = True
        story.end_s = now()

    async def _stay(self, story: Story, needs: Needs, place: Place[stage_pb2.StageStatus]) -> None:
        """On one stage after the other, kept by the real Keeper, until the video is made."""
        streams: list[SimulatedStream] = []

        async def find(avoid: Collection[str]) -> Place[stage_pb2.StageStatus]:
            async with or_over(None if avoid else self.settings.recovery_timeout_s, "stage"):
                return await self.admission.stage(needs, avoid)

        async def open_stream(peer: Peer[stage_pb2.StageStatus]) -> SimulatedStream:
            pod = self._replica_set.find(peer.address)
            streams.append(SimulatedStream(pod, peer.address, story))
            return streams[-1]

        def lost(loss: StreamLost | None) -> None:
            story.num_moves += loss is None
            story.num_cuts += loss is not None and streams[-1].is_open
            story.num_refusals += loss is not None and not streams[-1].is_open

        keeper: Keeper[stage_pb2.StageStatus] = Keeper(
            place,
            find=find,
            open_stream=open_stream,
            lost=lost,
            progress=lambda: -int(story.left_s),
            is_complete=story.made.is_set,
        )
        await race(keeper.run(), story.made.wait())  # as Production.run: what is complete moves no more

    async def _watch_stage(self, address: str) -> AsyncIterator[stage_pb2.StageStatus]:
        if pod := self._replica_set.find(address):
            async for status in pod.reports(HEARTBEAT_S):
                yield status


async def watch_decoder(address: str) -> AsyncIterator[decoder_pb2.DecoderStatus]:
    """Of one with room for everybody."""
    while True:
        yield decoder_pb2.DecoderStatus(
            server=common_pb2.ServerInfo(instance_id=address),
            state=common_pb2.SERVING_STATE_READY,
            max_sessions=EVERYBODY,
            models=[MODEL.model],
            encoders=[common_pb2.VIDEO_ENCODER_SOFTWARE],
        )
        await asyncio.sleep(HEARTBEAT_S)
