"""What is kept of a session, as one MP4 file: `/v1/sessions/{session}/video.mp4`.

The file has the session's own times: its first picture is at 0 only if block 0 is still kept. Its ETag says
from which segment to which it goes, so that a download can be resumed by `If-Range` and a player can seek
while the session goes on: the same bytes are there for as long as these segments are kept.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from services.common.errors import Overloaded
from services.web.kept import Kept
from services.web.problems import HttpError
from services.web.ranges import Unsatisfiable, parse_range
from services.web.videos import Videos

MP4 = "video/mp4"
READY_S = 10.0
MAX_DOWNLOADS = 32
"""At the same time: each holds what it sends until it has been sent."""
ETAG = re.compile(r'"(\d{1,18})-(\d{1,18})-.*"')


def routes(videos: Videos) -> list[BaseRoute]:
    """Mounted by `streams.routes`."""

    running: set[Download] = set()

    async def download(request: Request) -> Response:
        video = await videos.find(request, READY_S)
        if len(running) >= MAX_DOWNLOADS:
            raise Overloaded(f"{MAX_DOWNLOADS} downloads are running; try again")
        segments, wanted = choose(request, playable(list(video.segments)))
        headers = headers_of(request, segments, wanted)
        status = HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=MP4)
        return Download(running, segments, wanted or range(size_of(segments)), status, headers)

    return [Route("/v1/sessions/{session}/video.mp4", download)]


class Download(StreamingResponse):
    """Sent piece by piece, and counted until it ends."""

    def __init__(
        self,
        running: set["Download"],
        segments: Sequence[Kept],
        wanted: range,
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(chunks(segments, wanted), status, headers, MP4)
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


def choose(request: Request, segments: Sequence[Kept]) -> tuple[Sequence[Kept], range | None]:
    """The segments of the file that is meant, and which of its bytes; None: all. Raises HttpError."""
    if not (header := request.headers.get("range")):
        return segments, None
    etag = request.headers.get("if-range")
    meant = segments if etag is None else same_as_before(segments, etag)
    return (meant, wanted_range(header, size_of(meant))) if meant else (segments, None)


def same_as_before(segments: Sequence[Kept], etag: str) -> Sequence[Kept]:
    """Those of the file that once had this ETag; none: not all of them are here."""
    if not (found := ETAG.fullmatch(etag)):
        return ()
    first, last = map(int, found.groups())
    before = [kept for kept in segments if first <= kept.sequence <= last]
    return before if before and etag_of(before) == etag else ()


def etag_of(segments: Sequence[Kept]) -> str:
    first, last = segments[0], segments[-1]
    sums = f"{first.init.name.removesuffix('.mp4')}-{size_of(segments)}"
    return f'"{first.sequence}-{last.sequence}-{sums}"'


def wanted_range(header: str, size: int) -> range | None:
    """None: the whole file. Raises HttpError."""
    try:
        return parse_range(header, size)
    except Unsatisfiable:
        more = {"content-range": f"bytes */{size}", "accept-ranges": "bytes"}
        text = f"the file has {size} bytes"
        raise HttpError(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, text, headers=more) from None


def headers_of(request: Request, segments: Sequence[Kept], wanted: range | None) -> dict[str, str]:
    size = size_of(segments)
    headers = {
        "content-length": str(size if wanted is None else len(wanted)),
        "content-disposition": f'attachment; filename="{request.path_params["session"]}.mp4"',
        "cache-control": "no-store",
        "accept-ranges": "bytes",
        "etag": etag_of(segments),
    }
    if wanted is not None:
        headers["content-range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
    return headers


def parts(segments: Sequence[Kept]) -> Iterator[bytes]:
    yield segments[0].init.data
    for kept in segments:
        yield kept.data


def size_of(segments: Sequence[Kept]) -> int:
    return sum(map(len, parts(segments)))


async def chunks(segments: Sequence[Kept], wanted: range) -> AsyncIterator[bytes]:
    """Each when the one before it is on its way."""
    at = 0
    for part in parts(segments):
        if piece := part[max(0, wanted.start - at) : max(0, wanted.stop - at)]:
            yield piece
        at += len(part)
