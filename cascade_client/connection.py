"""Keeps a client attached to its session: one stream after another, without a seam."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from cascade import __version__
from cascade.v1 import session_pb2
from cascade.v1.session_pb2 import ConnectRequest, ConnectResponse
from cascade_client.channel import Channels
from cascade_client.errors import CascadeClientError
from cascade_client.events import Ended, Reconnected
from cascade_client.gateway_stream import GatewayStream, unreachable
from cascade_client.inbox import Inbox
from cascade_client.outbox import Outbox
from cascade_client.resume import RetryBackoff, may_reconnect

CLIENT = f"cascade_client/{__version__}"
EXPIRED = "EXPIRED_CREDENTIAL"
DEFECT = "INTERNAL"


@dataclass(frozen=True)
class Former:
    """The stream that another one is to follow."""

    stream: GatewayStream
    why_left: str
    is_leaving: bool
    """Its gateway said so itself, and serves it until another stream has taken over."""


@dataclass(frozen=True)
class ConnectOptions:
    """What a connection attaches to, and how long it tries."""

    name: str
    role: session_pb2.ConnectRole.ValueType
    profile_id: str = ""
    max_unacked_segments: int = 0
    with_parts: bool = False
    attach_within_s: float = 30.0
    """For the first attachment, repeats included."""
    give_up_after_s: float = 300.0
    """For each later one."""
    resume_token: str = field(default="", repr=False)


class Connection:
    """Outlives its streams: runs until the session has ended, or something happened that coming back cannot
    mend."""

    def __init__(self, channels: Channels, want: ConnectOptions, inbox: Inbox, outbox: Outbox) -> None:
        self.token = want.resume_token
        self.name = want.name
        self._channels = channels
        self._want = want
        self._inbox = inbox
        self._outbox = outbox
        self._backoff = RetryBackoff()
        self._attempts = 0
        self._num_defects = 0
        self.is_attached = False
        """Has been, once."""
        self.settled = asyncio.Event()
        """Attached for the first time, or over."""

    async def run(self) -> None:
        """Raises CascadeClientError."""
        try:
            stream: GatewayStream | None = await self._attach(self._want.attach_within_s, None)
            while stream:
                stream = await self._follow(stream)
        finally:
            self.settled.set()

    async def _follow(self, stream: GatewayStream) -> GatewayStream | None:
        """Pass on what a stream brings until the session has ended (None) or another one has taken over."""
        writer = asyncio.create_task(self._outbox.write_to(stream))
        reading = asyncio.create_task(stream.read())
        successor: asyncio.Task[GatewayStream | None] | None = None
        follower: GatewayStream | None = None
        try:
            while True:
                waiting: set[asyncio.Task[Any]] = {reading, successor} if successor else {reading}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if successor and successor.done():
                    follower = successor.result()
                    return follower
                message, why_left = self._heard(reading, is_leaving=successor is not None)
                if why_left and successor is None:
                    former = Former(stream, why_left, is_leaving=message is not None)
                    successor = asyncio.create_task(self._attach(self._want.give_up_after_s, former))
                if message is None:
                    assert successor
                    follower = await successor
                    return follower
                if await self._take(message):
                    return None
                reading = asyncio.create_task(stream.read())
        finally:
            await put_away(stream, writer, reading)
            await discard(successor, follower)

    def _heard(
        self, reading: asyncio.Task[ConnectResponse | None], *, is_leaving: bool
    ) -> tuple[ConnectResponse | None, str]:
        """What was read, and why another stream is needed, if so. Raises what that cannot mend."""
        try:
            message = reading.result()
        except CascadeClientError as error:
            if not is_leaving and not self._is_worth_repeating(error):
                raise
            return None, str(error)
        if message is None:
            return None, "the stream ended before the session"
        return message, "the gateway goes away" if message.HasField("reconnect") else ""

    async def _take(self, message: ConnectResponse) -> bool:
        """Whether it was the last."""
        if message.HasField("token_renewed"):
            self.token = message.token_renewed.resume_token
        if message.HasField("segment"):
            self._backoff.reset()
            self._num_defects = 0
        await self._inbox.take(message)
        return message.HasField("ended")

    def _is_worth_repeating(self, error: CascadeClientError) -> bool:
        """A defect of the server is worth one more try, then it is a defect of this session."""
        if error.reason == DEFECT:
            self._num_defects += 1
        return may_reconnect(error) and self._num_defects <= 1

    async def _attach(self, within_s: float, old: Former | None) -> GatewayStream | None:
        """Try until attached. None: the session has ended meanwhile.

        A gateway that leaves is not asked again before all the others were, each at once.
        """
        give_up_at = time.monotonic() + within_s
        num_at_once = 0
        if old and old.is_leaving:
            self._channels.move(old.stream.address)
            num_at_once = self._channels.num_others
        wait_s = self._backoff.next_s() if old and not num_at_once else 0.0
        while True:
            await asyncio.sleep(wait_s)
            self._attempts += 1
            try:
                return await self._attach_once(old)
            except CascadeClientError as error:
                if error.reason == EXPIRED and self.token and self.name:
                    self.token, wait_s = "", 0.0  # the tenant's own credential may do
                    continue
                if old and error.reason == "SESSION_CLOSED":
                    await self._inbox.close_with(Ended(error.metadata.get("end_reason", ""), 0, error))
                    return None
                num_at_once -= 1
                wait_s = 0.0 if num_at_once > 0 else self._backoff.next_s(error.retry_after_s)
                if not self._is_worth_repeating(error) or time.monotonic() + wait_s > give_up_at:
                    raise

    async def _attach_once(self, old: Former | None) -> GatewayStream:
        address = self._channels.address
        stream = GatewayStream(self._channels.fresh(), address, self._channels.metadata)
        try:
            answer = await stream.attach(self._message())
            self.token = answer.resume_token or self.token
            self.name = answer.session.name
            await self._inbox.attach(answer, self._reconnected(old))
        except CascadeClientError as error:
            self._channels.move(address)
            await stream.close()
            raise unreachable(error, address) from None
        except BaseException:
            await stream.close()
            raise
        self._attempts = 0
        self.is_attached = True
        self.settled.set()
        return stream

    def _reconnected(self, old: Former | None) -> Reconnected | None:
        if old is None:
            return None
        return Reconnected(time.monotonic() - old.stream.heard_at, self._attempts, old.why_left)

    def _message(self) -> ConnectRequest.Attach:
        return ConnectRequest.Attach(
            name=self.name,
            role=self._want.role,
            resume_token=self.token,
            after_sequence=self._inbox.position.last or None,
            profile_id=self._want.profile_id,
            max_unacked_segments=self._want.max_unacked_segments,
            client=CLIENT,
            with_parts=self._want.with_parts,
        )


async def put_away(stream: GatewayStream, *tasks: asyncio.Task[Any]) -> None:
    """Cancel what works on a stream, and end it."""
    for task in tasks:
        task.cancel()
    await stream.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def discard(
    successor: asyncio.Task[GatewayStream | None] | None, follower: GatewayStream | None
) -> None:
    """End a successor that nobody needs any more."""
    if successor is None or follower is not None:
        return
    successor.cancel()
    (result,) = await asyncio.gather(successor, return_exceptions=True)
    if isinstance(result, GatewayStream):
        await result.close()
