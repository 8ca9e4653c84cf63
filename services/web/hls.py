"""HLS for players, as a live stream and, once the session has ended, as a recording of what is kept.

    /v1/sessions/{session}/hls/index.m3u8     the playlist
    /v1/sessions/{session}/hls/init-....mp4   what it names in EXT-X-MAP
    /v1/sessions/{session}/hls/{sequence}.m4s one block

A player that cannot send headers brings a viewer's resume token as `?resume_token=`, which the playlist then
repeats behind each name; queries are not logged. `?profile=` chooses a form of the video. The playlist waits
for the first segment, at most `READY_S`.
"""

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from services.web.backend import RESUME_PARAMETER
from services.web.playlist import playlist_of
from services.web.problems import HttpError
from services.web.videos import PROFILE, Videos

PLAYLIST_TYPE = "application/vnd.apple.mpegurl"
INIT_TYPE, SEGMENT_TYPE = "video/mp4", "video/iso.segment"
READY_S = 10.0
ANYWHERE = {"cross-origin-resource-policy": "cross-origin"}
"""Whoever has the token may embed it."""
FIXED = ANYWHERE | {"cache-control": "private, max-age=3600, immutable"}
"""A name never has other content."""
CHANGING = ANYWHERE | {"cache-control": "no-cache"}
PREFIX = "/v1/sessions/{session}/hls"


def routes(videos: Videos) -> list[BaseRoute]:
    """Mounted by `streams.routes`."""

    async def playlist(request: Request) -> Response:
        video = await videos.find(request, READY_S)
        asked = {name: request.query_params.get(name, "") for name in (RESUME_PARAMETER, PROFILE)}
        query = urlencode({name: value for name, value in asked.items() if value})
        text = playlist_of(video, f"?{query}" if query else "")
        return Response(text, headers=CHANGING, media_type=PLAYLIST_TYPE)

    async def init(request: Request) -> Response:
        video = await videos.find(request, READY_S)
        found = video.find_init(f"init-{request.path_params['digest']}.mp4")
        if found is None:
            raise HttpError(404, "no segment that is kept needs this")
        return Response(found.data, headers=FIXED, media_type=INIT_TYPE)

    async def segment(request: Request) -> Response:
        video = await videos.find(request, READY_S)
        found = video.find(request.path_params["sequence"])
        if found is None:
            kept = f"{video.segments[0].sequence} to {video.last_sequence}"
            raise HttpError(404, f"segments {kept} are kept, not this one")
        return Response(found.data, headers=FIXED, media_type=SEGMENT_TYPE)

    return [
        Route(f"{PREFIX}/index.m3u8", playlist),
        Route(f"{PREFIX}/init-{{digest}}.mp4", init),
        Route(f"{PREFIX}/{{sequence:int}}.m4s", segment),
    ]
