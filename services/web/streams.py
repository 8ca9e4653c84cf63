"""The paths that carry video: WebSocket, HLS, download."""

from starlette.routing import BaseRoute

from services.web import hls, recording, websocket
from services.web.backend import Backend
from services.web.videos import Videos


def routes(backend: Backend) -> list[BaseRoute]:
    """What `app.make_app` mounts."""
    videos = Videos(backend)
    return [*websocket.routes(backend), *hls.routes(videos), *recording.routes(videos)]
