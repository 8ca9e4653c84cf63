"""The paths that carry video: WebSocket, HLS, download, WebRTC."""

from starlette.routing import BaseRoute

from cascade_core.errors import InvalidConfig
from services.web import hls, recording, websocket
from services.web.backend import Backend
from services.web.videos import Videos


def whep_routes(backend: Backend) -> list[BaseRoute]:
    """Raises InvalidConfig where its packages are missing."""
    try:
        from services.web import whep
    except ImportError as error:
        raise InvalidConfig(
            f"http.webrtc: needs the extra `webrtc`, of which {error.name} is missing"
        ) from None
    return whep.routes(backend)


def routes(backend: Backend) -> list[BaseRoute]:
    """What `app.make_app` mounts."""
    videos = Videos(backend)
    found = [*websocket.routes(backend), *hls.routes(videos), *recording.routes(videos)]
    if backend.settings.webrtc:
        found += whep_routes(backend)
    return found
