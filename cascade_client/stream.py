"""A session's video and events, over as many streams of gRPC as it takes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from cascade.v1.session_pb2 import ConnectRequest
from cascade_client.channel import Channels
from cascade_client.connection import Connection, ConnectOptions
from cascade_client.errors import CascadeClientError, Unavailable
from cascade_client.events import Ended, Event, MediaInit, PromptReceipt, Segment
from cascade_client.frames import Frame, Tell, check_installed, decoded
from cascade_client.inbox import Finished, Inbox
from cascade_client.outbox import Outbox
from cascade_client.playback import Playback
from cascade_client.prompts import Prompt, Transition
from cascade_client.session import SwitchMode, build_switch, make_request_id, role_value

REPLY_DEADLINE_S = 30.0
FLUSH_DEADLINE_S = 1.0


class Stream:
    """Made by `Client.connect`; use it in `async with` and iterate it once.

        async with client.connect(session) as stream:
            async for event in stream:
                if isinstance(event, Segment):
                    player.feed(event.data)

    A lost connection, a gateway that goes away and a machine that dies under the session are mended behind
    it: segments come each once, in order, without a gap. Iterating raises CascadeClientError when that is no
    longer possible (SequenceGap, Replaced, NotAllowed, or Unavailable after `give_up_after_s`), after the
    events that came before. Leaving the block detaches and leaves the session as it is.
    """

    def __init__(
        self, channels: Channels, want: ConnectOptions, *, after_sequence: int, auto_ack: bool
    ) -> None:
        self._is_viewer = want.role == role_value("viewer")
        self._auto_ack = auto_ack
        self._outbox = Outbox()
        self._inbox = Inbox(self._outbox, after_sequence, is_viewer=self._is_viewer)
        self._connection = Connection(channels, want, self._inbox, self._outbox)
        self._running: asyncio.Task[None] | None = None
        self._taken = after_sequence or None
        self.last_sequence = after_sequence
        """Of the newest segment that iterating has given out: what to resume after in another process."""
        self.media_init: MediaInit | None = None
        """The newest that iterating has given out: what a player or file that begins now needs first."""

    @property
    def resume_token(self) -> str:
        """The newest token, to attach again from another process. A secret."""
        return self._connection.token

    @property
    def name(self) -> str:
        """`sessions/{session_id}`."""
        return self._connection.name

    @property
    def num_repeated(self) -> int:
        """Segments that came once more, mostly after a loss of the stream, and were dropped."""
        return self._inbox.position.num_repeated

    async def __aenter__(self) -> Self:
        """Attach. Raises CascadeClientError."""
        self._running = asyncio.create_task(self._run(), name="stream")
        try:
            await self._connection.settled.wait()
        except asyncio.CancelledError:
            await self._stop()
            raise
        if not self._connection.is_attached:
            try:
                await self._inbox.next()
            except Finished as finished:
                raise finished.error or Unavailable("the stream ended before it was attached") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._running and not self._running.done():
                await self._outbox.flush(FLUSH_DEADLINE_S)
        finally:
            await self._stop()

    async def _run(self) -> None:
        error: CascadeClientError | None = None
        try:
            await self._connection.run()
        except CascadeClientError as caught:
            error = caught
        self._outbox.fail_all(
            error or Unavailable("the session has ended", grpc.StatusCode.FAILED_PRECONDITION)
        )
        await self._inbox.finish(error)

    async def _stop(self) -> None:
        if self._running:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event; taking it acknowledges the segment before, unless `auto_ack` is off."""
        if self._auto_ack and self._taken is not None:
            self.ack(self._taken)
        try:
            event = await self._inbox.next()
        except Finished as finished:
            if finished.error:
                raise finished.error from None
            raise StopAsyncIteration from None
        if isinstance(event, Segment):
            self._taken = self.last_sequence = event.sequence
        elif isinstance(event, MediaInit):
            self.media_init = event
        return event

    def frames(self, tell: Tell | None = None) -> AsyncIterator[Frame]:
        """Iterate pictures in place of events; `tell` is called with the events.

            async for frame in stream.frames():
                show(frame.image, frame.time_s)

        Segments are decoded one at a time, in a thread; one is acknowledged when its pictures were taken.
        Raises MissingExtra without `pip install 'cascade-client[frames]'`.
        """
        check_installed()
        return decoded(self, self.media_init, tell)

    def ack(self, sequence: int, playback: Playback | None = None) -> None:
        """Give credit: everything up to this segment is played or stored. Sent at once, never waits.

        With `playback`, what your player has, blocks are made right before they are needed:

            stream.ack(playing, Playback(playhead_s=player.time_s, buffered_s=player.buffered_s))

        Best with `auto_ack=False`, when a segment begins to play, with the same `sequence` again as soon as
        another one has come, and when playing stops or goes on.

        Raises ValueError for a segment that iterating has not given out.
        """
        if not 1 <= sequence <= self.last_sequence:
            raise ValueError(f"segment {sequence} was not received; the newest is {self.last_sequence}")
        if not self._is_viewer:
            self._outbox.ack(sequence, playback)

    async def switch(
        self,
        prompt: Prompt,
        *,
        mode: SwitchMode | None = None,
        at_block: int | None = None,
        loras: Mapping[str, float] | None = None,
        transition: Transition | None = None,
        request_id: str | None = None,
    ) -> PromptReceipt:
        """Change the prompt, at once or over a `transition`, and with `loras` what it is made with, as
        `Client.switch`. Returns the first receipt, mostly ACCEPTED; later ones come as events.

            receipt = await stream.switch("a blue square", mode="boundary")

        Raises InvalidRequest, WrongState (BLOCK_NOT_AHEAD) or Exhausted (TOO_MANY_SWITCHES), and Unavailable
        if no answer comes; it may take effect all the same, which a repeat with the same `request_id` tells.
        """
        request_id = request_id or make_request_id()
        wanted = build_switch(prompt, mode, at_block, loras, transition)
        message = ConnectRequest.Switch(request_id=request_id, prompt_switch=wanted)
        receipt: PromptReceipt = await self._ask(request_id, ConnectRequest(switch_prompt=message))
        return receipt

    async def pause(self) -> None:
        """Stop at the next block; segments already made still come."""
        await self._set_paused(True)

    async def resume(self) -> None:
        """Go on after a pause."""
        await self._set_paused(False)

    async def end(self) -> Ended:
        """End the session, not only this stream. The last event is Ended, too."""
        request_id = make_request_id()
        message = ConnectRequest(end=ConnectRequest.End(request_id=request_id))
        ended: Ended = await self._ask(request_id, message)
        return ended

    async def _set_paused(self, paused: bool) -> None:
        if self._inbox.paused == paused and self._inbox.state:
            return
        request_id = make_request_id()
        wish = ConnectRequest.SetPaused(request_id=request_id, paused=paused)
        await self._ask(request_id, ConnectRequest(set_paused=wish))

    async def _ask(self, request_id: str, message: ConnectRequest) -> Any:
        if self._running is None or self._running.done():
            raise Unavailable("the stream is closed", grpc.StatusCode.FAILED_PRECONDITION)
        try:
            return await self._outbox.ask(request_id, message, REPLY_DEADLINE_S)
        except TimeoutError:
            text = f"no answer within {REPLY_DEADLINE_S:g} s; it may take effect all the same"
            raise Unavailable(text, grpc.StatusCode.DEADLINE_EXCEEDED) from None
