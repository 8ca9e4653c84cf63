"""Who may read a session's video: whoever has a resume token of it, or may see the session."""

import asyncio
import time
from hashlib import sha256

from cascade.v1 import session_pb2
from services.common.auth import AUTHORIZATION
from services.common.call import CERTIFICATE
from services.common.errors import PermissionDenied
from services.common.resume_tokens import ResumeTokens
from services.web.backend import Backend, Credentials
from services.web.connect_stream import ConnectStream, Request

GOOD_FOR_S = 15.0
"""A revoked key still reads for that long at most."""
MAX_ENTRIES = 10_000


class Doorman:
    """Reads resume tokens itself where it has the gateway's key; asks the gateway about other credentials
    and remembers its answer, so that a player's requests cost one call now and then. Only asking about a
    token takes a viewer's place, for a moment."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._let_in: dict[bytes, float] = {}
        """By session and credential, hashed: until when, in the order of that."""
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        """Of several requests that come at once with the same entry, the first asks for all."""

    async def check(self, name: str, credentials: Credentials) -> None:
        """Raises what attaching fails with: UNAUTHENTICATED, SESSION_NOT_FOUND and so on."""
        token = credentials.resume_token
        if token and self._backend.tokens:
            check_token(self._backend.tokens, name, token)
        elif token:
            await self._check_by_asking(name, Credentials((), token))
        else:
            await self._check_by_asking(name, credentials)

    async def _check_by_asking(self, name: str, credentials: Credentials) -> None:
        entry = digest(name, credentials)
        if self._let_in.get(entry, 0.0) > time.monotonic():
            return
        asking = self._asking.get(entry)
        if asking is None:
            asking = self._asking[entry] = asyncio.create_task(self._ask(name, credentials))
            asking.add_done_callback(lambda task: self._take_answer(entry, task))
        await asyncio.shield(asking)

    async def _ask(self, name: str, credentials: Credentials) -> None:
        if not credentials.resume_token:
            await self._backend.unary("GetSession", session_pb2.GetSessionRequest(name=name), credentials)
            return
        stream = ConnectStream(self._backend, credentials)
        try:
            await stream.attach(
                Request.Attach(
                    name=name,
                    role=session_pb2.CONNECT_ROLE_VIEWER,
                    resume_token=credentials.resume_token,
                    client="cascade-web check",
                )
            )
        finally:
            stream.close()

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


def check_token(tokens: ResumeTokens, name: str, token: str) -> None:
    """Raise PermissionDenied for a token of another session, and what reading raises; whichever gateway has
    the session, and whether or not it has ended: all of them sign alike."""
    if f"sessions/{tokens.read(token).session}" != name:
        raise PermissionDenied("resume_token: is of another session than the path")


def digest(name: str, credentials: Credentials) -> bytes:
    """So that no key stays in memory."""
    shown = dict(credentials.metadata)
    keys = (credentials.resume_token, *(shown.get(key, "") for key in (AUTHORIZATION, CERTIFICATE)))
    parts = [name.encode(), *(key if isinstance(key, bytes) else key.encode() for key in keys)]
    return sha256(b"".join(sha256(part).digest() for part in parts)).digest()
