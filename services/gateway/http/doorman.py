"""Who may read a session's video: whoever could attach to it as a viewer, asked again every few seconds."""

import asyncio
import time
from hashlib import sha256

from cascade.v1 import session_pb2
from services.common.auth import AUTHORIZATION
from services.gateway.http.backend import Backend, Credentials
from services.gateway.http.line import Line, Request

GOOD_FOR_S = 15.0
"""An expired token or a revoked key still reads for that long at most."""
MAX_ENTRIES = 10_000


class Doorman:
    """Remembers whom the session let in, so that a player's requests cost one short stream now and then."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._let_in: dict[bytes, float] = {}
        """By session and credential, hashed: until when, in the order of that."""
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        """Of several that come at once with the same, the first asks for all."""

    async def check(self, name: str, credentials: Credentials) -> None:
        """Raises what attaching fails with: UNAUTHENTICATED, SESSION_NOT_FOUND and so on."""
        entry = digest(name, credentials)
        if self._let_in.get(entry, 0.0) > time.monotonic():
            return
        asking = self._asking.get(entry)
        if asking is None:
            asking = self._asking[entry] = asyncio.create_task(self._ask(name, credentials))
            asking.add_done_callback(lambda task: self._take_answer(entry, task))
        await asyncio.shield(asking)

    async def _ask(self, name: str, credentials: Credentials) -> None:
        line = Line(self._backend, credentials)
        viewer = session_pb2.CONNECT_ROLE_VIEWER
        try:
            await line.attach(Request.Attach(name=name, role=viewer, resume_token=credentials.resume_token))
        finally:
            line.close()

    def _take_answer(self, entry: bytes, asking: asyncio.Task[None]) -> None:
        del self._asking[entry]
        if asking.cancelled() or asking.exception():
            return
        now = time.monotonic()
        self._let_in.pop(entry, None)
        self._let_in[entry] = now + GOOD_FOR_S
        self._forget(now)

    def _forget(self, now: float) -> None:
        while (oldest := next(iter(self._let_in))) and (
            self._let_in[oldest] <= now or len(self._let_in) > MAX_ENTRIES
        ):
            del self._let_in[oldest]


def digest(name: str, credentials: Credentials) -> bytes:
    """So that no token stays in memory."""
    authorization = dict(credentials.metadata).get(AUTHORIZATION, "")
    parts = (name, authorization, credentials.resume_token)
    return sha256(b"".join(sha256(part.encode()).digest() for part in parts)).digest()
