"""Publishes H.264 as WebRTC, by WHIP (RFC 9725), without encoding anew."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from http.client import HTTPException
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin
from urllib.request import Request, urlopen

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream

from cascade_client.push.output import VideoPacket
from cascade_client.push.target import Target

HTTP_DEADLINE_S = 10.0
CONNECT_DEADLINE_S = 10.0
CLOSE_DEADLINE_S = 5.0
MAX_WAITING = 64
"""Packets: seconds of video. Beyond that the connection takes nothing any more."""


class PacketTrack(MediaStreamTrack):
    """Hands over packets as they are put."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.packets: asyncio.Queue[VideoPacket] = asyncio.Queue(MAX_WAITING)

    async def recv(self) -> VideoPacket:
        return await self.packets.get()


class WhipOutput:
    """A published session. Its own thread has the event loop that WebRTC needs."""

    def __init__(self, target: Target, source: VideoStream) -> None:
        """Connects. `source`: whose packets will come. Raises OSError."""
        # MP4 keeps parameter sets outside and has lengths for start codes; WebRTC wants both before each IDR.
        self._filter = BitStreamFilterContext("h264_mp4toannexb", source)
        self._target = target
        self._resource: str | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="webrtc", daemon=True).start()
        try:
            self._run(self._connect(), HTTP_DEADLINE_S + CONNECT_DEADLINE_S)
        except BaseException:
            self._close()
            raise

    def _run(self, work: Coroutine[Any, Any, None], deadline_s: float) -> None:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            future.result(deadline_s)
        except TimeoutError:
            future.cancel()
            raise OSError(f"no connection within {deadline_s:g} s") from None

    async def _connect(self) -> None:
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._track = PacketTrack()
        transceiver = self._peer.addTransceiver(self._track, direction="sendonly")
        codecs = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences([each for each in codecs if each.mimeType == "video/H264"])
        changed = asyncio.Event()
        self._peer.on("connectionstatechange", changed.set)
        await self._peer.setLocalDescription(await self._peer.createOffer())
        answer = await asyncio.to_thread(self._publish, self._peer.localDescription.sdp)
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        except Exception as error:  # whatever a server may have answered
            raise OSError(f"its answer is no session description: {error}") from None
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            while self._peer.connectionState in ("new", "connecting"):
                await changed.wait()
                changed.clear()
        self._check()

    def _publish(self, offer: str) -> str:
        """The answer's description."""
        headers = {"Content-Type": "application/sdp", **self._authorization()}
        request = Request(self._target.url, offer.encode(), headers, method="POST")
        try:
            with urlopen(request, timeout=HTTP_DEADLINE_S) as response:
                if location := response.headers.get("Location"):
                    self._resource = urljoin(response.url, location)
                return str(response.read(2**20).decode())
        except HTTPError as error:
            raise OSError(f"it answered {error.code} {error.reason}") from None
        except URLError as error:
            reason = error.reason
            raise OSError(getattr(reason, "strerror", None) or str(reason)) from None
        except (HTTPException, UnicodeDecodeError) as error:
            raise OSError(f"its answer makes no sense: {error!r}") from None

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._target.token}"} if self._target.token else {}

    def _check(self) -> None:
        if self._peer.connectionState != "connected":
            raise OSError(f"the WebRTC connection is {self._peer.connectionState}")

    def send(self, packet: VideoPacket) -> None:
        self._check()
        for part in self._filter.filter(packet):
            self._loop.call_soon_threadsafe(self._put, part)

    def _put(self, packet: VideoPacket) -> None:
        if not self._track.packets.full():  # else the check finds that nothing gets through
            self._track.packets.put_nowait(packet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        with suppress(OSError):
            self._run(self._leave(), CLOSE_DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _leave(self) -> None:
        if self._resource:
            await asyncio.to_thread(self._delete, self._resource)
        if peer := getattr(self, "_peer", None):
            await peer.close()

    def _delete(self, resource: str) -> None:
        with suppress(OSError, HTTPException):
            urlopen(
                Request(resource, headers=self._authorization(), method="DELETE"), timeout=CLOSE_DEADLINE_S
            ).close()
