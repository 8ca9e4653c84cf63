"""One viewer's stream per session and gateway, from which any number of HTTP readers are served."""

import asyncio
import random
import time
from contextlib import suppress

import grpc

from cascade.v1 import session_pb2
from services.common.backoff import doubled
from services.common.errors import NotReady, Overloaded
from services.common.race import race
from services.common.settings import MIB
from services.web.backend import Backend, Credentials
from services.web.connect_stream import ConnectStream, Request
from services.web.kept import KeptVideo

MAX_SEGMENTS = 1000
"""As many as a gateway can be told to keep."""
MAX_BYTES = 64 * MIB
"""Of one session: the oldest segments give way beyond it."""
MAX_FOLLOWERS = 64
"""Sessions that are read at the same time, and so 4 GiB at the very most."""
IDLE_S = 30.0
"""A stream that nobody has read from for that long is closed. Players ask every few seconds."""
FIRST_DELAY_S, MAX_DELAY_S = 0.5, 10.0
"""Between two tries to attach again, as the contract says."""
LOST = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
Key = tuple[str, str]
"""Session's name and profile."""


class Follower:
    """Follows a session as a viewer, over as many streams as it takes."""

    def __init__(self, backend: Backend, key: Key, credentials: Credentials) -> None:
        """`credentials`: of whoever asks first, of which a resume token alone will do: a wrong key beside it
        would end the stream for all. What follows is attached by the stream's own tokens."""
        self.video = KeptVideo(MAX_SEGMENTS, MAX_BYTES)
        self.read_at = time.monotonic()
        """When somebody asked for it last."""
        self._backend = backend
        token = credentials.resume_token
        self._credentials = Credentials((), token) if token else credentials
        self._attach = Request.Attach(
            name=key[0],
            profile_id=key[1],
            role=session_pb2.CONNECT_ROLE_VIEWER,
            resume_token=token,
            from_oldest=True,
            with_parts=True,
            client="cascade-gateway http",
        )
        self._is_attached = False
        self._num_failures = 0

    async def run(self) -> None:
        """Until the session has ended, the gateway leaves, or nobody reads any more."""
        try:
            await race(self._fail(), self._backend.leaving.wait(), self._forgotten())
        finally:
            if not self.video.is_over:
                self.video.fail(self.video.error or NotReady("the stream has ended; ask again"))

    async def _forgotten(self) -> None:
        """Until nobody has read for a while."""
        left_s = IDLE_S
        while left_s > 0:
            await asyncio.sleep(left_s)
            left_s = self.read_at + IDLE_S - time.monotonic()

    async def _fail(self) -> None:
        """Follow, until that is of no use; what is complete is kept for its readers."""
        await self._follow()
        if not self.video.error:
            await asyncio.Event().wait()

    async def _follow(self) -> None:
        """Until the session has ended."""
        while not self.video.is_over:
            try:
                await self._read()
            except Exception as error:
                if not self._is_attached or not is_lost(error):
                    self.video.fail(error)
                    return
            if not self.video.is_over:
                longest_s = doubled(FIRST_DELAY_S, self._num_failures, MAX_DELAY_S)
                self._num_failures += 1
                await asyncio.sleep(random.uniform(0, longest_s))

    async def _read(self) -> None:
        """One stream, to its end."""
        stream = ConnectStream(self._backend, self._credentials)
        try:
            self._attach.after_sequence = self.video.last_sequence
            attached = await stream.attach(self._attach)
            self._note_token(attached.resume_token)
            self.video.take(session_pb2.ConnectResponse(attached=attached))
            self._is_attached, self._num_failures = True, 0
            while (event := await stream.read()) is not None:
                if event.HasField("reconnect"):
                    return
                if event.HasField("token_renewed"):
                    self._note_token(event.token_renewed.resume_token)
                self.video.take(event)
        finally:
            stream.close()

    def _note_token(self, token: str) -> None:
        """From now on this alone lets us in."""
        self._attach.resume_token = token
        self._credentials = Credentials((), token)


class Followers:
    """Those of one application, each with its task."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._running: dict[Key, Follower] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    async def video(self, key: Key, credentials: Credentials, wait_s: float) -> KeptVideo:
        """What is kept, once all of it has come and there is at least one segment. The caller has been let in
        already. Raises NotReady where that takes longer, Overloaded, and what attaching failed with."""
        follower = self._find(key, credentials)
        video = follower.video
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not video.is_complete:
                    await video.wakeup.wait()
        follower.read_at = time.monotonic()
        if video.error and not video.is_over:
            raise video.error
        if not video.segments:
            raise NotReady("the session has no video yet; try again")
        return video

    def _find(self, key: Key, credentials: Credentials) -> Follower:
        if follower := self._running.get(key):
            follower.read_at = time.monotonic()
            return follower
        if len(self._running) >= MAX_FOLLOWERS:
            raise Overloaded("this gateway serves as many sessions over HTTP as it can")
        if self._backend.leaving.is_set():
            raise NotReady("this gateway is leaving; ask again")
        follower = self._running[key] = Follower(self._backend, key, credentials)
        task = asyncio.create_task(self._run(key, follower), name="follower")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return follower

    async def _run(self, key: Key, follower: Follower) -> None:
        try:
            await follower.run()
        finally:
            del self._running[key]


def is_lost(error: Exception) -> bool:
    """Whether the stream was lost, and not refused."""
    return isinstance(error, NotReady) or (isinstance(error, grpc.aio.AioRpcError) and error.code() in LOST)
