"""uvicorn's configuration, with the bounds of a connection."""

from uvicorn import Config

from services.web.crowd import Crowd
from services.web.settings import HttpSettings


class BoundedConfig(Config):
    """All of it has to be set before the server starts."""

    bounds: HttpSettings
    crowd: Crowd
    knows_certificates: bool
    """Whether the name in a client's certificate is a credential."""
