"""The paths that carry video: WebSocket, HLS, download."""

from starlette.routing import BaseRoute

from services.gateway.http import hls, recording, websocket
from services.gateway.http.backend import Backend
from services.gateway.http.videos import Videos


def routes(backend: Backend) -> list[BaseRoute]:
    """What `app.make_app` mounts."""
    videos = Videos(backend)
    return [*websocket.routes(backend), *hls.routes(videos), *recording.routes(videos)]
