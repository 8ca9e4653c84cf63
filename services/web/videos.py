"""Video over plain HTTP: who may have it, and where it comes from."""

import re

from starlette.requests import Request

from services.web.backend import Backend
from services.web.doorman import Doorman
from services.web.follower import Followers
from services.web.kept import KeptVideo
from services.web.problems import HttpError

PROFILE = "profile"
PROFILE_ID = re.compile(r"[a-z0-9-]{0,32}")


class Videos:
    """All sessions' that somebody reads here."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._doorman = Doorman(backend)
        self.followers = Followers(backend)

    async def find(self, request: Request, wait_s: float) -> KeptVideo:
        """The video of the request's session, with at least one segment. Raises what the caller is told."""
        profile = request.query_params.get(PROFILE, "")
        if not PROFILE_ID.fullmatch(profile):
            raise HttpError(400, "profile: at most 32 lower-case letters, digits and `-`")
        name = f"sessions/{request.path_params['session']}"
        credentials = self._backend.credentials(request)
        await self._doorman.check(name, credentials)
        return await self.followers.video((name, profile), credentials, wait_s)
