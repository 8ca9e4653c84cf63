"""uvicorn's configuration, with the bounds of a connection."""

from uvicorn import Config

from services.web.crowd import Crowd
from services.web.settings import HttpSettings


class BoundedConfig(Config):
    """Set both before the server starts."""

    bounds: HttpSettings
    crowd: Crowd
