"""One WebRTC player of a session: its stream of Connect, over as many as it takes, and its connection."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

from cascade.v1 import session_pb2
from cascade_core.errors import CascadeError
from services.common.backoff import doubled
from services.common.errors import ProtocolViolation
from services.common.race import race
from services.web.backend import Backend, Credentials
from services.web.connect_stream import ConnectStream, Request, Response
from services.web.follower import FIRST_DELAY_S, MAX_DELAY_S, is_lost
from services.web.frames import media_of, text_of
from services.web.mapping import json_of, parse_json, to_message
from services.web.problems import HttpError, problem_of
from services.web.webrtc.descriptions import what_lacks, with_public_address
from services.web.webrtc.packets import packets_of
from services.web.webrtc.peer import BadOffer, Peer
from services.web.webrtc.track import Playing
from services.web.whep_playback import Playback

ANSWER_DEADLINE_S = 10.0
CONNECT_DEADLINE_S = 30.0
"""From the answer to a connection."""
CLOSE_DEADLINE_S = 5.0
MAX_AHEAD = 2
"""Segments that are handed over before their last picture has left."""
MAX_REQUESTS = 16
"""Acks, and what the player asks for, that wait; one that asks faster is shut out."""
LOST_FOR_S = 60.0
"""A session that cannot be attached to again for that long is over."""
FROM_PLAYERS = ("switch_prompt", "set_paused", "end")


class Player:
    """Made for one offer."""

    def __init__(self, backend: Backend, credentials: Credentials, attach: Request.Attach) -> None:
        self._backend = backend
        self._credentials = credentials
        self._attach = attach
        self._attach.resume_token = credentials.resume_token
        self._stream = ConnectStream(backend, credentials)
        self._loop = asyncio.get_running_loop()
        self._requests: asyncio.Queue[Request | None] = asyncio.Queue(MAX_REQUESTS)
        self._connected, self._over = asyncio.Event(), asyncio.Event()
        self._room = asyncio.Semaphore(MAX_AHEAD)
        self._playback = Playback(self._loop.time)
        self._sent = 0
        """The newest segment whose last picture has left."""
        self._is_just_in_time = self._ack_waits = False
        self._init = b""
        self._peer: Peer | None = None

    async def start(self, offer: str) -> str:
        """Attach, and the answer. Raises what attaching fails with, and HttpError."""
        if lacking := what_lacks(offer):
            raise HttpError(HTTPStatus.BAD_REQUEST, lacking)
        try:
            await self._attach_to(self._stream)
            return await self._negotiate(offer)
        except BaseException:
            self._stream.close()
            raise

    async def _negotiate(self, offer: str) -> str:
        rtc = self._backend.rtc()

        async def answer() -> str:
            ours = self._from_peer
            self._peer = Peer(ours(self._take_text), ours(self._take_state), ours(self._take_playing))
            return await self._peer.answer(offer)

        try:
            text = await rtc.run(answer(), ANSWER_DEADLINE_S)
        except BadOffer as error:
            await self._close_peer()
            raise HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None
        except TimeoutError:
            await self._close_peer()
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "WebRTC did not answer in time") from None
        address = self._backend.settings.webrtc_public_address
        return with_public_address(text, address) if address else text

    async def run(self) -> None:
        """Until the player, the session or this gateway is gone."""
        try:
            await race(self._play(), self._over.wait(), self._backend.leaving.wait(), self._not_connected())
        finally:
            self._stream.close()
            await self._close_peer()

    def end(self) -> None:
        self._over.set()

    async def _not_connected(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                await self._connected.wait()
        except TimeoutError:
            return
        await asyncio.Event().wait()

    async def _play(self) -> None:
        """Forward both ways; another stream after a loss."""
        await self._connected.wait()  # what is sent before goes nowhere, and is acknowledged
        failures, lost_at = 0, 0.0
        while not self._over.is_set():
            try:
                if failures:
                    await self._attach_to(self._stream)
                failures = 0
                await race(self._forward_events(), self._forward_requests())
            except Exception as error:
                self._tell(text_of({"problem": problem_of(error, "").content()}))
                if not is_lost(error):
                    return
            self._stream.close()
            now = self._loop.time()
            lost_at = lost_at if failures else now
            failures += 1
            if self._over.is_set() or now - lost_at > LOST_FOR_S:
                return
            await asyncio.sleep(random.uniform(0, doubled(FIRST_DELAY_S, failures, MAX_DELAY_S)))
            self._stream = ConnectStream(self._backend, self._credentials)

    async def _attach_to(self, stream: ConnectStream) -> None:
        attached = await stream.attach(self._attach)
        self._is_just_in_time = attached.just_in_time
        self._note_token(attached.resume_token)

    def _note_token(self, token: str) -> None:
        """From now on this alone lets us in."""
        self._attach.resume_token = token
        self._credentials = Credentials((), token)

    async def _forward_events(self) -> None:
        """Until the stream ends; the player's end where the session has ended."""
        while (event := await self._stream.read()) is not None:
            match event.WhichOneof("message"):
                case "reconnect":
                    return
                case "token_renewed":
                    self._note_token(event.token_renewed.resume_token)
                    continue
                case "media_init":
                    self._init = event.media_init.data
                case "segment":
                    await self._send(event.segment)
                case "state_changed":
                    self._playback.is_paused = event.state_changed.paused
            has_ended = event.HasField("ended")
            if holder := media_of(event):
                holder.ClearField("data")
            self._tell(text_of(json_of(event)))
            if has_ended:
                await self._drain()
                self._over.set()

    async def _send(self, segment: Response.Segment) -> None:
        """Hand it over when there is room; acknowledged when its last picture has left."""
        await self._room.acquire()
        packets = await asyncio.to_thread(packets_of, self._init, segment.media.data)
        sequence = self._attach.after_sequence = segment.sequence
        assert self._peer
        self._backend.rtc().call(self._peer.put, packets, self._from_peer(lambda: self._note_sent(sequence)))

    def _note_sent(self, sequence: int) -> None:
        self._room.release()
        self._sent = sequence
        self._ack()

    def _take_playing(self, playing: Playing) -> None:
        self._playback.note(playing)
        if self._is_just_in_time and self._sent:
            self._ack()

    def _ack(self) -> None:
        """One that waits says the newest as well."""
        if self._attach.role == session_pb2.CONNECT_ROLE_CONTROLLER and not self._ack_waits:
            self._ack_waits = True
            self._ask(None)

    async def _drain(self) -> None:
        """Until the last picture has left."""
        for _ in range(MAX_AHEAD):
            await self._room.acquire()

    async def _forward_requests(self) -> None:
        """To the session, each when it has taken the one before it."""
        while True:
            await self._stream.write(await self._requests.get() or self._newest_ack())

    def _newest_ack(self) -> Request:
        self._ack_waits = False
        has = self._playback.message() if self._is_just_in_time else None
        return Request(ack=Request.Ack(sequence=self._sent, playback=has))

    def _ask(self, request: Request | None) -> None:
        """None: an ack."""
        try:
            self._requests.put_nowait(request)
        except asyncio.QueueFull:  # it sends faster than the session takes
            self._over.set()

    def _take_text(self, text: str) -> None:
        """Of the player. What makes no sense is told to it."""
        try:
            request = to_message(parse_json(text), Request())
            if request.WhichOneof("message") not in FROM_PLAYERS:
                raise ProtocolViolation(
                    "over WebRTC only `switchPrompt`, `setPaused` and `end` can be asked for"
                )
        except CascadeError as error:
            self._tell(text_of({"problem": problem_of(error, "").content()}))
        else:
            self._ask(request)

    def _take_state(self, state: str) -> None:
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._over.set()

    def _tell(self, text: str) -> None:
        assert self._peer
        self._backend.rtc().call(self._peer.tell, text)

    def _from_peer(self, function: Callable[..., object]) -> Callable[..., object]:
        """What the peer calls in its loop is done in ours."""
        return lambda *arguments: self._loop.call_soon_threadsafe(function, *arguments)

    async def _close_peer(self) -> None:
        if self._peer:
            with suppress(TimeoutError):
                await self._backend.rtc().run(self._peer.close(), CLOSE_DEADLINE_S)
