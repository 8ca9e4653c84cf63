"""What is kept of a session, as one MP4 file: `/v1/sessions/{session}/video.mp4`.

The file has the session's own times: its first picture is at 0 only if block 0 is kept still.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from services.common.errors import Overloaded
from services.gateway.http.kept import Kept
from services.gateway.http.videos import Videos

MP4 = "video/mp4"
READY_S = 10.0
MAX_DOWNLOADS = 32
"""At the same time: each holds what it sends until it has been sent."""


def routes(videos: Videos) -> list[BaseRoute]:
    """Mounted by `streams.routes`."""

    running: set[Download] = set()

    async def download(request: Request) -> Response:
        video = await videos.find(request, READY_S)
        if len(running) >= MAX_DOWNLOADS:
            raise Overloaded(f"{MAX_DOWNLOADS} downloads are running; try again")
        segments = playable(list(video.segments))
        headers = {
            "content-length": str(sum(map(len, parts(segments)))),
            "content-disposition": f'attachment; filename="{request.path_params["session"]}.mp4"',
            "cache-control": "no-store",
        }
        return Download(running, segments, headers)

    return [Route("/v1/sessions/{session}/video.mp4", download)]


class Download(StreamingResponse):
    """Sent piece by piece, and counted until it ends."""

    def __init__(
        self, running: set["Download"], segments: Sequence[Kept], headers: Mapping[str, str]
    ) -> None:
        super().__init__(chunks(segments), headers=headers, media_type=MP4)
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._running.add(self)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._running.discard(self)


def playable(segments: Sequence[Kept]) -> Sequence[Kept]:
    """The newest that one initialisation segment fits: one file cannot hold two."""
    first = len(segments) - 1
    while first > 0 and segments[first - 1].init == segments[-1].init:
        first -= 1
    return segments[first:]


def parts(segments: Sequence[Kept]) -> Sequence[bytes]:
    return [segments[0].init.data, *(kept.data for kept in segments)]


async def chunks(segments: Sequence[Kept]) -> AsyncIterator[bytes]:
    """Each when the one before it is on its way."""
    for part in parts(segments):
        yield part
