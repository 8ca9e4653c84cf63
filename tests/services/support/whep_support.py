"""A WHEP player made with aiortc: it decodes what comes, and writes down what it is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

SDP = {"content-type": "application/sdp"}
LOOPBACK = {"webrtc": True, "webrtc_host": "127.0.0.1"}


class WhepPlayer:
    """Connected, or about to be."""

    def __init__(self) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.num_pictures = 0
        self.events: list[dict[str, Any]] = []
        self.location = ""
        self.link = ""
        self._tasks: list[asyncio.Task[None]] = []
        self.channel = self.connection.createDataChannel("cascade")
        self.channel.on("message", lambda text: self.events.append(json.loads(text)))
        self.connection.addTransceiver("video", direction="recvonly")
        self.connection.on("track", lambda track: self._tasks.append(asyncio.create_task(self._watch(track))))

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return str(self.connection.localDescription.sdp)

    async def connect(self, client: httpx2.AsyncClient, path: str) -> None:
        answer = await client.post(path, content=await self.offer(), headers=SDP)
        assert answer.status_code == 201, answer.text
        assert answer.headers["content-type"] == "application/sdp"
        self.location, self.link = answer.headers["location"], answer.headers.get("link", "")
        await self.connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event[kind] for event in self.events if kind in event]

    async def _watch(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                await track.recv()
                self.num_pictures += 1
        except MediaStreamError:
            return

    async def close(self) -> None:
        await self.connection.close()
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def whep_player() -> AsyncIterator[WhepPlayer]:
    player = WhepPlayer()
    try:
        yield player
    finally:
        await player.close()
