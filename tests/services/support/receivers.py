"""What takes a video that is pushed: FFmpeg that listens for RTMP or SRT, and a WHIP endpoint."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import uvicorn
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ENDS_WITHIN_S = 10.0


@contextmanager
def listening(url: str, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """FFmpeg waits for one sender at `url` and stores what comes; it ends when the sender does."""
    server = ["-listen", "1"] if url.startswith("rtmp") else []
    command = ["ffmpeg", "-loglevel", "error", "-y", *server, "-i", url, "-c", "copy", str(file)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_bound(process.pid)
        yield process
    finally:
        try:
            process.wait(ENDS_WITHIN_S)
        finally:
            process.kill()
            process.wait()


def wait_bound(pid: int) -> None:
    """Until it listens; a first connection to try it would be the only one that it takes."""
    until = time.monotonic() + ENDS_WITHIN_S
    while not psutil.Process(pid).net_connections():
        assert time.monotonic() < until, "FFmpeg does not listen"
        time.sleep(0.05)


def num_pictures(file: Path) -> int:
    """As ffprobe counts them, decoded."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v"]
    entries = ["-show_entries", "stream=nb_read_frames", "-of", "default=nokey=1:noprint_wrappers=1"]
    return int(subprocess.check_output([*command, *entries, str(file)]).split()[0])


@dataclass
class WhipEndpoint:
    """A media server's: it decodes what comes."""

    url: str
    pictures: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of each that was decoded."""
    tokens: list[str] = field(default_factory=list)
    refuses_with: int = 0
    is_deleted: bool = False
    _peers: list[RTCPeerConnection] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def publish(self, request: Request) -> Response:
        self.tokens.append(request.headers.get("authorization", ""))
        if self.refuses_with:
            return Response(status_code=self.refuses_with)
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._peers.append(peer)
        peer.on("track", lambda track: self._tasks.append(asyncio.create_task(self._watch(track))))
        await peer.setRemoteDescription(RTCSessionDescription((await request.body()).decode(), "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        headers = {"Location": "/resource/1", "Content-Type": "application/sdp"}
        return Response(peer.localDescription.sdp, status_code=201, headers=headers)

    async def end(self, request: Request) -> Response:
        self.is_deleted = True
        return Response()

    async def _watch(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame = await track.recv()
                self.pictures.append((frame.width, frame.height))
        except MediaStreamError:
            return

    async def close(self) -> None:
        for peer in self._peers:
            await peer.close()
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def whip_endpoint(port: int) -> AsyncIterator[WhipEndpoint]:
    endpoint = WhipEndpoint(f"http://127.0.0.1:{port}/whip")
    routes = [
        Route("/whip", endpoint.publish, methods=["POST"]),
        Route("/resource/1", endpoint.end, methods=["DELETE"]),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            while not server.started:  # noqa: ASYNC110 - it has no event for it
                await asyncio.sleep(0.02)
        yield endpoint
    finally:
        await endpoint.close()
        server.should_exit = True
        await serving
