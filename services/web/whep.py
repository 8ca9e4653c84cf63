"""WHEP: players that have WebRTC get a session's video with it, within a picture of when it is due.

    POST   /v1/sessions/{session}/whep        an offer (SDP), answered by 201, an answer and a Location
    DELETE /v1/sessions/{session}/whep/{id}   the end of it

`?role=controller` plays instead of watching: a segment is acknowledged when its last picture has left. Over
the data channel that the player may open come the events of Connect as JSON text, without media, and go
`switchPrompt`, `setPaused` and `end`. A lost gateway is followed by another without the player's help.
"""

import asyncio
from collections import Counter
from http import HTTPStatus
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cascade.v1 import session_pb2
from services.common.errors import NotReady, Overloaded
from services.web.backend import Backend
from services.web.body import read
from services.web.problems import HttpError
from services.web.settings import HttpSettings
from services.web.videos import PROFILE, PROFILE_ID
from services.web.whep_player import Player

SDP = "application/sdp"
MAX_OFFER_BYTES = 64 * 1024
SESSION_SHARE = 4
"""Of all players that there may be, one session has at most one in so many."""
ROLES = {"viewer": session_pb2.CONNECT_ROLE_VIEWER, "controller": session_pb2.CONNECT_ROLE_CONTROLLER}
PATH = "/v1/sessions/{session}/whep"


def routes(backend: Backend) -> list[BaseRoute]:
    """Mounted by `streams.routes`."""
    players = Players(backend)

    async def offer(request: Request) -> Response:
        return await players.add(request)

    async def end(request: Request) -> Response:
        await players.end(request.path_params["session"], request.path_params["player"])
        return Response()

    return [Route(PATH, offer, methods=["POST"]), Route(PATH + "/{player}", end, methods=["DELETE"])]


class Players:
    """Those of one process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._settings = backend.settings
        self._running: dict[tuple[str, str], Player] = {}
        """By session and id, which nobody can guess."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: Counter[str] = Counter()
        """By session."""

    async def add(self, request: Request) -> Response:
        """Raises what the caller is told."""
        session = request.path_params["session"]
        self._check_room(session)
        if self._backend.leaving.is_set():
            raise NotReady("this gateway is leaving; ask again")
        self._starting[session] += 1
        try:
            attach, description = self._wanted(request), await read_offer(request, self._settings)
            player = Player(self._backend, self._backend.credentials(request), attach)
            answer = await player.start(description)
        finally:
            self._starting -= Counter([session])
        number = uuid4().hex
        self._running[session, number] = player
        task = asyncio.create_task(self._run(session, number, player), name="whep")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        headers = {"location": f"{request.url.path}/{number}", "cache-control": "no-store"}
        if self._settings.webrtc_ice_servers:
            headers["link"] = ", ".join(map(link_of, self._settings.webrtc_ice_servers))
        return Response(answer, HTTPStatus.CREATED, headers, SDP)

    def _check_room(self, session: str) -> None:
        most = self._settings.webrtc_max_players
        if len(self._running) + self._starting.total() >= most:
            raise Overloaded("this gateway has as many WebRTC players as it may have")
        num_own = sum(watched == session for watched, _ in self._running) + self._starting[session]
        if num_own >= max(1, most // SESSION_SHARE):
            raise Overloaded("this session has as many WebRTC players at this gateway as it may have")

    async def end(self, session: str, number: str) -> None:
        player = self._running.get((session, number))
        if player is None:
            raise HttpError(HTTPStatus.NOT_FOUND, "there is no such player (any more)")
        player.end()

    async def _run(self, session: str, number: str, player: Player) -> None:
        try:
            await player.run()
        finally:
            del self._running[session, number]

    def _wanted(self, request: Request) -> session_pb2.ConnectRequest.Attach:
        role, profile = request.query_params.get("role", "viewer"), request.query_params.get(PROFILE, "")
        if role not in ROLES:
            raise HttpError(HTTPStatus.BAD_REQUEST, "role: `viewer` or `controller`")
        if not PROFILE_ID.fullmatch(profile):
            raise HttpError(HTTPStatus.BAD_REQUEST, "profile: at most 32 lower-case letters, digits and `-`")
        return session_pb2.ConnectRequest.Attach(
            name=f"sessions/{request.path_params['session']}",
            role=ROLES[role],
            profile_id=profile,
            client="cascade-gateway whep",
        )


async def read_offer(request: Request, settings: HttpSettings) -> str:
    """Raises HttpError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != SDP:
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {SDP}")
    try:
        return (await read(request, settings, MAX_OFFER_BYTES)).decode()
    except UnicodeDecodeError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the offer is no text") from None


def link_of(server: str) -> str:
    """As WHEP tells players of ICE servers. `server`: stun:HOST:PORT, or turn:USER:PASSWORD@HOST:PORT."""
    scheme, _, rest = server.partition(":")
    account, at, place = rest.rpartition("@")
    link = f'<{scheme}:{place}>; rel="ice-server"'
    if not at:
        return link
    user, _, password = account.partition(":")
    return f'{link}; username="{user}"; credential="{password}"; credential-type="password"'
