"""A gateway with an HTTP side between a fake stage and a decoder whose segments are real video, and clients
that know nothing of Cascade: a WebSocket library, an HTTP library, ffprobe."""

import asyncio
import json
import struct
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import numpy as np
import websockets
from websockets.asyncio.client import ClientConnection

from cascade.v1 import common_pb2
from services.decoder.segments import MediaPart, SegmentEncoder
from services.decoder.video_settings import VideoSettings
from services.gateway.app.assembly import running
from services.web.settings import HttpSettings
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import (
    WAIT_S,
    AttachedStream,
    Tenant,
    Town,
    gateway_settings,
    open_channel,
    until,
    write_keys,
)
from tests.services.support.media_support import encoded

FPS, SIZE = 16, 64
TENANTS = ("acme", "other")


class FilmDecoder(FakeDecoder):
    """Its segments are H.264 in fMP4, each picture in a grey of its own."""

    def __init__(self, **machine: Any) -> None:
        super().__init__(**machine)
        self.encoder = SegmentEncoder(VideoSettings(width=SIZE, height=SIZE, fps=Fraction(FPS)))
        self.shift = 0
        """Of its greys."""

    async def Decode(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for response in super().Decode(requests, context):
            if response.HasField("media_init"):
                response.media_init.data = self.encoder.init_segment
                response.media_init.mime_type = self.encoder.mime_type
            yield response

    def parts(self, media: common_pb2.MediaSegment, mark: bytes) -> list[bytes]:
        return [part.data for part in self._parts(media.block, media.first_frame, media.num_frames)]

    def film(self, block: int, first_frame: int, num_frames: int) -> bytes:
        """The segment of a block: the same whoever makes it."""
        return b"".join(part.data for part in self._parts(block, first_frame, num_frames))

    def _parts(self, block: int, first_frame: int, num_frames: int) -> list[MediaPart]:
        greys = (np.arange(first_frame, first_frame + num_frames) % 200 + self.shift).astype(np.uint8)
        frames = np.broadcast_to(greys[:, None, None, None], (num_frames, SIZE, SIZE, 3))
        return encoded(self.encoder, np.ascontiguousarray(frames), index=block, first_frame=first_frame)


class WebTown(Town):
    """As Town, with a port for HTTP."""

    @property
    def port(self) -> int:
        service: Any = self.server.service
        return int(service.http.port)

    @property
    def web(self) -> str:
        return self.url


@asynccontextmanager
async def web_town(
    *,
    tenants: Sequence[str] = TENANTS,
    http: dict[str, Any] | None = None,
    open_s: float = 0.0,
    host: str = "127.0.0.1",
    stage: Mapping[str, Any] | None = None,
    **gateway: Any,
) -> AsyncIterator[WebTown]:
    """`http`, `gateway`: fields of these settings. `stage`: of FakeStage. `host`: where all of it
    listens. One segment ahead of the controller, unless it asks for more, so that tests can say how many
    there are."""
    machine: dict[str, Any] = {"host": host, "capacity": 8}
    stages = [FakeStage(**machine, open_s=open_s, **(stage or {}))]
    decoders = [FilmDecoder(**machine)]
    with TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.toml"
        write_keys(keys, tenants)
        try:
            for machine in (*stages, *decoders):
                await machine.start()
            addresses = ([machine.address for machine in machines] for machines in (stages, decoders))
            options = {"host": host, "max_unacked_segments": 1} | gateway
            settings = gateway_settings(*addresses, keys, **options)
            settings = replace(settings, http=HttpSettings(**({"host": host, "port": 0} | (http or {}))))
            async with running(settings) as (server, registry), open_channel(server.port, host) as channel:
                people = {name: Tenant(channel, name) for name in tenants}
                anybody = people[tenants[0]]
                place = WebTown(server, registry, stages, decoders, channel, anybody, people)
                await until(lambda: registry.shared.admission.has_stages)
                await until(lambda: all(machine.num_watchers for machine in (*stages, *decoders)))
                yield place
        finally:
            for machine in (*stages, *decoders):
                await machine.kill()


@asynccontextmanager
async def browsing(place: WebTown, tenant: str | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"authorization": f"Bearer key-{tenant}"} if tenant else {}
    async with httpx2.AsyncClient(base_url=place.web, headers=headers, timeout=WAIT_S) as client:
        yield client


class Browser:
    """One WebSocket, as a page would use it."""

    def __init__(self, socket: ClientConnection, *, acks: bool) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.media: list[bytes] = []
        """Of the segments, as they came."""
        self.parts: list[bytes] = []
        """Of the parts."""
        self.init = b""
        self.problem: dict[str, Any] = {}
        self.code: int | None = None
        """What it was closed with; None: it is open."""
        self._acks = acks
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def ack(self, sequence: int) -> None:
        await self.send(ack={"sequence": sequence})

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_segments(self, number: int) -> None:
        await self.until(lambda: len(self.sequences) >= number or self.code)

    async def until_closed(self) -> None:
        await self.until(lambda: self.code)

    async def first(self, kind: str) -> dict[str, Any]:
        await self.until(lambda: self.all(kind) or self.code)
        assert self.all(kind), f"no {kind}: {self.code} {self.problem}"
        return self.all(kind)[0]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event[kind] for event in self.events if kind in event]

    @property
    def sequences(self) -> list[int]:
        return [int(segment["sequence"]) for segment in self.all("segment")]

    async def _read(self) -> None:
        try:
            while True:
                await self._take(await self.socket.recv())
        except websockets.ConnectionClosed:
            self.code = self.socket.close_code or 1006
        finally:
            self._news.set()

    async def _take(self, message: str | bytes) -> None:
        event, data = unpacked(message)
        self.events.append(event)
        self.problem = event.get("problem", self.problem)
        if "mediaInit" in event:
            self.init = data
        if "segment" in event:
            self.media.append(data)
        if "part" in event:
            self.parts.append(data)
        self._news.set()
        if "segment" in event and self._acks:
            await self.ack(int(event["segment"]["sequence"]))

    async def leave(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self.socket.close()

    async def cut(self) -> None:
        """As a network that is gone: no close frame."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self.socket.transport.abort()


def unpacked(message: str | bytes) -> tuple[dict[str, Any], bytes]:
    """The event and its media, as a page takes them apart."""
    if isinstance(message, str):
        return json.loads(message), b""
    (length,) = struct.unpack_from(">I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


@asynccontextmanager
async def page(
    place: WebTown, name: str, *, acks: bool = True, message: dict[str, Any] | None = None, **attach: Any
) -> AsyncIterator[Browser]:
    """A page that has sent its `attach`; `message`: what it says beside it."""
    async with open_socket(place, name) as socket:
        browser = Browser(socket, acks=acks)
        try:
            await browser.send(attach=attach, **(message or {}))
            yield browser
        finally:
            await browser.leave()


def open_socket(place: WebTown, name: str, **options: Any) -> Any:
    url = f"{place.web.replace('http', 'ws', 1)}/v1/{name}/connect"
    return websockets.connect(
        url, **({"subprotocols": ["cascade.v1"], "max_size": 2**24, "proxy": None} | options)
    )


@asynccontextmanager
async def playing(
    place: WebTown, num_segments: int, **spec: Any
) -> AsyncIterator[tuple[str, AttachedStream]]:
    """A session whose controller has received and acknowledged that many segments, then asks for no more."""
    name = await place.anybody.name(**spec)
    async with place.anybody.attached(name, acks=False, max_unacked_segments=1) as stream:
        for sequence in range(1, num_segments + 1):
            await stream.until_sequence(sequence)
            if sequence < num_segments:
                await stream.ack(sequence)
        yield name, stream


async def run(*command: str | Path) -> str:
    """What a program says; one that fails or complains fails the test."""
    return await asyncio.to_thread(_run, *map(str, command))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def probed(source: str | Path) -> dict[str, Any]:
    """The video stream as ffprobe counts it."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json"]
    (stream,) = json.loads(await run(*command, source))["streams"]
    return dict(stream)
