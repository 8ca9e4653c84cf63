"""HLS for players, as a live stream and, once the session has ended, as a recording of what is kept.

    /v1/sessions/{session}/hls/index.m3u8     the playlist
    /v1/sessions/{session}/hls/init-....mp4   what it names in EXT-X-MAP
    /v1/sessions/{session}/hls/{sequence}.m4s one block
    /v1/sessions/{session}/hls/low-latency.m3u8   the playlist for players that take blocks in parts
    /v1/sessions/{session}/hls/{sequence}.{epoch}.{index}.m4s   a part of a block

A player that cannot send headers brings a viewer's resume token as `?resume_token=`, which the playlist then
repeats behind each name; queries are not logged. `?profile=` chooses a form of the video. The playlist waits
for the first segment, at most `READY_S`. The other one (`_HLS_msn`, `_HLS_part`), and the part that it names
ahead, can be asked for before they are there.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from services.web.backend import RESUME_PARAMETER
from services.web.kept import KeptVideo
from services.web.playlist import playlist_of
from services.web.problems import HttpError
from services.web.videos import PROFILE, Videos

PLAYLIST_TYPE = "application/vnd.apple.mpegurl"
INIT_TYPE, SEGMENT_TYPE = "video/mp4", "video/iso.segment"
READY_S = 10.0
BLOCKED_S = 3.0
"""A request for what is not there yet waits that long; then it is answered with what there is."""
MAX_AHEAD = 2
"""Segments beyond the newest that may be waited for."""
NEXT_SEQUENCE, NEXT_PART = "_HLS_msn", "_HLS_part"
MAX_DIGITS = 10
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
        return listed(playlist_of(video, query_of(request)))

    async def low_latency(request: Request) -> Response:
        video = await videos.find(request, READY_S)
        sequence, index = number_of(request, NEXT_SEQUENCE), number_of(request, NEXT_PART)
        if sequence is None and index is not None:
            raise HttpError(400, f"{NEXT_PART}: needs {NEXT_SEQUENCE}")
        if sequence is not None:
            if sequence > video.last_sequence + MAX_AHEAD:
                raise HttpError(400, f"{NEXT_SEQUENCE}: {video.last_sequence} is the newest")
            await until(video, lambda: video.has(sequence, index))
        return listed(playlist_of(video, query_of(request), in_parts=True))

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

    async def part(request: Request) -> Response:
        video = await videos.find(request, READY_S)
        sequence, epoch, index = (request.path_params[name] for name in ("sequence", "epoch", "index"))
        if sequence <= video.last_sequence + MAX_AHEAD:
            await until(video, lambda: video.has(sequence, index))
        found = video.find_part(sequence, epoch, index)
        if found is None:
            raise HttpError(404, "this part is not here any more, or not yet")
        return Response(found.data, headers=FIXED, media_type=SEGMENT_TYPE)

    return [
        Route(f"{PREFIX}/index.m3u8", playlist),
        Route(f"{PREFIX}/low-latency.m3u8", low_latency),
        Route(f"{PREFIX}/{{sequence:int}}.{{epoch:int}}.{{index:int}}.m4s", part),
        Route(f"{PREFIX}/init-{{digest}}.mp4", init),
        Route(f"{PREFIX}/{{sequence:int}}.m4s", segment),
    ]


def listed(text: str) -> Response:
    return Response(text, headers=CHANGING, media_type=PLAYLIST_TYPE)


def query_of(request: Request) -> str:
    """What the playlist repeats behind each name."""
    asked = {name: request.query_params.get(name, "") for name in (RESUME_PARAMETER, PROFILE)}
    query = urlencode({name: value for name, value in asked.items() if value})
    return f"?{query}" if query else ""


def number_of(request: Request, name: str) -> int | None:
    """None: it is not given. Raises HttpError."""
    given = request.query_params.get(name)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= MAX_DIGITS):
        raise HttpError(400, f"{name}: must be a whole number")
    return int(given)


async def until(video: KeptVideo, is_there: Callable[[], bool]) -> None:
    """At most `BLOCKED_S`. Raises what the video is lost with."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BLOCKED_S):
            await video.wakeup.until(lambda: is_there() or video.is_over or video.error)
    if video.error and not video.is_over:
        raise video.error
