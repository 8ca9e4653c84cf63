"""What the client still has to tell the gateway. It outlives the streams: a new one is told again."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from cascade.v1.session_pb2 import ConnectRequest
from cascade_client.errors import CascadeClientError, Exhausted
from cascade_client.gateway_stream import GatewayStream
from cascade_client.granted import Granted
from cascade_client.playback import Playback

MAX_REQUESTS = 64
TOO_LATE = "BLOCK_NOT_AHEAD"
REMINDED_S = 30.0
"""How long the answer to what is told again may take."""


@dataclass(eq=False)
class Request:
    """A message that waits for its answer. A repeat has the same request_id, so it takes effect once."""

    message: ConnectRequest
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_reminder: bool = False
    """A session that knows it says nothing, so it is not waited for, once told, for long."""

    def told(self) -> None:
        """It was written to a stream."""
        if self.is_reminder:
            self.is_reminder = False
            expiry = self.answer.get_loop().call_later(REMINDED_S, self.answer.cancel)
            self.answer.add_done_callback(lambda _: expiry.cancel())


class Outbox:
    """Acks count up; requests stay until they are answered, and come back where the answer was forgotten."""

    def __init__(self) -> None:
        self._acked = 0
        self._playback: Playback | None = None
        """To be told once: later it is no news any more."""
        self._requests: dict[str, Request] = {}
        self._granted = Granted()
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self._told.set()

    def ack(self, sequence: int, playback: Playback | None = None) -> None:
        if sequence > self._acked or playback:
            self._acked = max(sequence, self._acked)
            self._playback = playback or self._playback
            self._wake()

    def _wake(self) -> None:
        self._told.clear()
        self._news.set()

    async def ask(self, request_id: str, message: ConnectRequest, deadline_s: float) -> Any:
        """Send, and wait for the answer. Raises TimeoutError, or what the request failed with."""
        if len(self._requests) >= MAX_REQUESTS:
            raise Exhausted(f"{MAX_REQUESTS} requests of this stream wait for their answers")
        request = self._requests.setdefault(request_id, Request(message))
        self._wake()
        try:
            async with asyncio.timeout(deadline_s):
                answer = await asyncio.shield(request.answer)
            self._granted.note(message)
            return answer
        finally:
            self._requests.pop(request_id, None)

    def remind(self, receipts: Collection[str], paused: bool) -> None:
        """Ask again for what was granted, where the session knows nothing of it: before what is asked now."""
        lost = self._granted.take_unknown(receipts, paused)
        again = {request_id: self._again(request_id, message) for request_id, message in lost.items()}
        self._requests = {**again, **self._requests}
        if again:
            self._wake()

    def _again(self, request_id: str, message: ConnectRequest) -> Request:
        """Nobody waits for the answer. A switch whose block has been made takes effect as soon as it can."""
        request = Request(message, is_reminder=True)

        def answered(answer: asyncio.Future[Any]) -> None:
            if self._requests.get(request_id) is request:
                del self._requests[request_id]
            error = None if answer.cancelled() else answer.exception()
            if not answer.cancelled() and not error:
                self._granted.note(message)
            switch = message.switch_prompt.prompt_switch
            if (
                isinstance(error, CascadeClientError)
                and error.reason == TOO_LATE
                and switch.HasField("at_block")
            ):
                sooner = ConnectRequest()
                sooner.CopyFrom(message)
                sooner.switch_prompt.prompt_switch.ClearField("at_block")
                self._requests = {request_id: self._again(request_id, sooner), **self._requests}
                self._wake()

        request.answer.add_done_callback(answered)
        return request

    def answer(self, request_id: str, value: Any) -> None:
        request = self._requests.get(request_id)
        if request and not request.answer.done():
            request.answer.set_result(value)

    def fail(self, request_id: str, error: CascadeClientError) -> None:
        request = self._requests.get(request_id)
        if request and not request.answer.done():
            request.answer.set_exception(error)

    def heard_accepted(self, request_id: str) -> None:
        """Of a switch, whoever asked for it, as it happens."""
        if request_id not in self._requests:
            self._granted.heard_accepted(request_id)

    def heard_paused(self, paused: bool) -> None:
        """Whoever asked for it, as it happens."""
        if not any(request.message.HasField("set_paused") for request in self._requests.values()):
            self._granted.heard_paused(paused)

    def answer_end(self, value: Any) -> None:
        """`ended` carries no request_id."""
        for request_id, request in self._requests.items():
            if request.message.HasField("end"):
                self.answer(request_id, value)

    def answer_paused(self, paused: bool) -> None:
        """Nor does `state_changed`."""
        for request_id, request in self._requests.items():
            message = request.message
            if message.HasField("set_paused") and message.set_paused.paused == paused:
                self.answer(request_id, None)

    def fail_all(self, error: CascadeClientError) -> None:
        for request_id in self._requests:
            self.fail(request_id, error)

    async def write_to(self, stream: GatewayStream) -> None:
        """Tell this stream everything, then what is new, until cancelled."""
        told: set[Request] = set()
        acked, self._playback = 0, None
        while True:
            self._news.clear()
            for request in list(self._requests.values()):
                if request not in told and not request.answer.done():
                    await stream.write(request.message)
                    request.told()
                    told.add(request)
            if self._acked > acked or self._playback:
                acked, playback, self._playback = self._acked, self._playback, None
                ack = ConnectRequest.Ack(sequence=acked, playback=playback and playback.message())
                await stream.write(ConnectRequest(ack=ack))
            told &= set(self._requests.values())
            if not self._news.is_set():
                self._told.set()
                await self._news.wait()

    async def flush(self, deadline_s: float) -> None:
        """Wait until all has been written, no longer than that."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._told.wait()
        except TimeoutError:
            return
