"""The unary calls of SessionService, and the door to its streams."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from cascade.v1 import common_pb2, session_pb2
from cascade.v1.session_pb2_grpc import SessionServiceStub
from cascade_client import events
from cascade_client.channel import Channels, Tls, parse_addresses
from cascade_client.connection import ConnectOptions
from cascade_client.errors import CascadeClientError, Unavailable, from_rpc
from cascade_client.events import PromptReceipt
from cascade_client.gateway_stream import unreachable
from cascade_client.prompts import Prompt, Transition
from cascade_client.resume import RetryBackoff, may_repeat
from cascade_client.session import (
    InflightAttention,
    Priority,
    Role,
    Session,
    SwitchMode,
    build_spec,
    build_switch,
    duration,
    make_request_id,
    moment,
    resource_name,
    role_value,
)
from cascade_client.start import Clip, Fit, Picture, build_start
from cascade_client.stream import Stream

if TYPE_CHECKING:
    from cascade.v1.session_pb2_grpc import SessionServiceAsyncStub  # exists in the stubs' types alone

ENCODE_DEADLINE_S = 60.0
"""Of an attempt at a session that begins from a file: decoders encode it before the answer comes."""
Q = TypeVar("Q")
A = TypeVar("A")
Method = Callable[["SessionServiceAsyncStub"], grpc.aio.UnaryUnaryMultiCallable[Q, A]]


class Client:
    """Talks to a gateway. Safe to share between tasks of one event loop.

        async with Client("localhost:50051", api_key="...") as client:
            session = await client.create({0: "a red circle moves left", 8: "a blue square"}, num_blocks=40)

    Every mutation makes up a `request_id` and repeats with the same one after UNAVAILABLE and
    DEADLINE_EXCEEDED, with back-off, for `retry_for_s`, so that it takes effect once. Pass your own to
    repeat it in another process.
    """

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        deadline_s: float = 10.0,
        retry_for_s: float = 30.0,
    ) -> None:
        """`target`: `host:port`, or several of them with commas between, which are tried in turn. `api_key`:
        an API key or JWT. `tls` None: plain text. `deadline_s`: of each attempt of a unary call.

        Raises ValueError for a target that is no address.
        """
        self._channels = Channels(parse_addresses(target), api_key, tls)
        self._deadline_s = deadline_s
        self._retry_for_s = retry_for_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections for unary calls; streams end with their own blocks."""
        await self._channels.close()

    async def create(
        self,
        prompts: str | Mapping[str, float] | Mapping[int, Prompt],
        *,
        model: str = "",
        switch_mode: SwitchMode | None = None,
        seed: int | None = None,
        width: int = 0,
        height: int = 0,
        fps: float = 0,
        profiles: Sequence[common_pb2.MediaProfile] = (),
        num_blocks: int | None = None,
        idle_timeout_s: float | None = None,
        priority: Priority | None = None,
        labels: Mapping[str, str] | None = None,
        stagger: int = 0,
        inflight_attention: InflightAttention | None = None,
        loras: Mapping[str, float] | None = None,
        image: Picture | None = None,
        video: Clip | None = None,
        last_s: float | None = None,
        fit: Fit | None = None,
        include_start: bool = False,
        transitions: Mapping[int, Transition] | None = None,
        session_id: str = "",
        request_id: str | None = None,
    ) -> Session:
        """Ask for a session; it is in the queue when this returns. What is left out, the server chooses.

        `prompts`: one prompt, or block -> prompt with one for block 0; a prompt is a text, or
        weights by text.
        `transitions`: by block of a later prompt, how gradually it takes over. `width`, `height`: pixels.
        `num_blocks` None: until deleted. `stagger`: passes a block makes before its successor starts, 1 for
        the full cascade; 0: the stage's. What it may be, and `inflight_attention`, tells `models`. `loras`:
        name -> scale, at most three of the model's, -4 to 4.

        `image`: the video goes on from this picture: a path, the bytes of a PNG, JPEG or WebP, an image of
        Pillow, or an array uint8 [H, W, 3]. `video`: from this clip, the path or the bytes of an MP4;
        `last_s`: from its last seconds. `fit`: what becomes of another shape, "crop" (default) or "pad".
        `include_start`: the clip is sent as well, as the first blocks. At most 8 MiB.

        Raises InvalidRequest, NotFound (UNKNOWN_MODEL), AlreadyExists, Exhausted (QUOTA_EXCEEDED,
        QUEUE_FULL), and ValueError or OSError for a file that cannot be sent.
        """
        start = await asyncio.to_thread(build_start, image, video, last_s, fit)
        spec = build_spec(
            prompts,
            model=model,
            switch_mode=switch_mode,
            seed=seed,
            width=width,
            height=height,
            fps=fps,
            profiles=profiles,
            num_blocks=num_blocks,
            idle_timeout_s=idle_timeout_s,
            priority=priority,
            labels=labels,
            stagger=stagger,
            inflight_attention=inflight_attention,
            loras=loras,
            start=start,
            include_start=include_start,
            transitions=transitions,
        )
        request = session_pb2.CreateSessionRequest(
            request_id=request_id or make_request_id(), session_id=session_id, spec=spec
        )
        deadline_s = max(self._deadline_s, ENCODE_DEADLINE_S) if start else self._deadline_s
        answer = await self._call(lambda stub: stub.CreateSession, request, deadline_s)
        return Session(answer.session, answer.resume_token)

    def connect(
        self,
        session: Session | str = "",
        *,
        role: Role = "controller",
        resume_token: str | None = None,
        after_sequence: int = 0,
        profile_id: str = "",
        max_unacked_segments: int = 0,
        auto_ack: bool = True,
        with_parts: bool = False,
        attach_within_s: float = 30.0,
        give_up_after_s: float = 300.0,
    ) -> Stream:
        """A stream of the session, attached by `async with`.

        `session` may be left out with a `resume_token`. `after_sequence`: the highest segment that is stored
        already. `max_unacked_segments`: credit, 1 to 64; 0: the gateway's default. `auto_ack` False: call
        `stream.ack` yourself. `with_parts`: also tell of each Part of a segment, before it.
        `give_up_after_s`: how long a lost stream is tried again.
        """
        token = session.resume_token if isinstance(session, Session) else ""
        want = ConnectOptions(
            name=resource_name(session),
            role=role_value(role),
            profile_id=profile_id,
            max_unacked_segments=max_unacked_segments,
            with_parts=with_parts,
            attach_within_s=attach_within_s,
            give_up_after_s=give_up_after_s,
            resume_token=token if resume_token is None else resume_token,
        )
        if not (want.name or want.resume_token):
            raise ValueError("connect needs a session or a resume_token")
        return Stream(self._channels, want, after_sequence=after_sequence, auto_ack=auto_ack)

    async def get(self, session: Session | str) -> Session:
        """The session as it is now. Raises NotFound."""
        request = session_pb2.GetSessionRequest(name=resource_name(session))
        answer = await self._call(lambda stub: stub.GetSession, request)
        return updated(session, answer.session)

    async def list(
        self,
        *,
        states: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[Session]:
        """The tenant's sessions, newest first, page after page as they are asked for.

        async for session in client.list(states=["ACTIVE"]):
            print(session.name)
        """
        request = session_pb2.ListSessionsRequest(
            page_size=page_size,
            states=[session_pb2.SessionState.Value(f"SESSION_STATE_{state}") for state in states],
            labels=labels,
        )
        while True:
            answer = await self._call(lambda stub: stub.ListSessions, request)
            for message in answer.sessions:
                yield Session(message)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def models(self) -> Sequence[session_pb2.Model]:
        """Those of the stages that are up."""
        answer = await self._call(lambda stub: stub.ListModels, session_pb2.ListModelsRequest())
        return answer.models

    async def delete(self, session: Session | str, *, request_id: str | None = None) -> Session:
        """End the session, whatever its state."""
        request = session_pb2.DeleteSessionRequest(
            name=resource_name(session), request_id=request_id or make_request_id()
        )
        answer = await self._call(lambda stub: stub.DeleteSession, request)
        return updated(session, answer.session)

    async def pause(self, session: Session | str, *, request_id: str | None = None) -> Session:
        """Stop making video at the next block. Raises WrongState (SESSION_CLOSED)."""
        request = session_pb2.PauseSessionRequest(
            name=resource_name(session), request_id=request_id or make_request_id()
        )
        answer = await self._call(lambda stub: stub.PauseSession, request)
        return updated(session, answer.session)

    async def resume(self, session: Session | str, *, request_id: str | None = None) -> Session:
        """Go on after a pause. Raises WrongState (SESSION_CLOSED)."""
        request = session_pb2.ResumeSessionRequest(
            name=resource_name(session), request_id=request_id or make_request_id()
        )
        answer = await self._call(lambda stub: stub.ResumeSession, request)
        return updated(session, answer.session)

    async def switch(
        self,
        session: Session | str,
        prompt: Prompt,
        *,
        mode: SwitchMode | None = None,
        at_block: int | None = None,
        loras: Mapping[str, float] | None = None,
        transition: Transition | None = None,
        request_id: str | None = None,
    ) -> PromptReceipt:
        """Change the prompt, at once or over a `transition` (a mix is weights by text), and with `loras` what
        it is made with (None: as before; {}: the model as it is; those of the session's stage). A repeat with
        the same `request_id` and content tells how far it is.

        Raises InvalidRequest, WrongState (BLOCK_NOT_AHEAD, SESSION_CLOSED), Exhausted (TOO_MANY_SWITCHES).
        """
        request = session_pb2.SwitchPromptRequest(
            name=resource_name(session),
            prompt_switch=build_switch(prompt, mode, at_block, loras, transition),
            request_id=request_id or make_request_id(),
        )
        answer = await self._call(lambda stub: stub.SwitchPrompt, request)
        return events.receipt(answer.receipt)

    async def issue_token(
        self, session: Session | str, *, role: Role, ttl_s: float | None = None
    ) -> tuple[str, datetime]:
        """A resume token for somebody without a credential, a browser say, and until when it is good."""
        request = session_pb2.IssueResumeTokenRequest(
            name=resource_name(session),
            role=role_value(role),
            ttl=None if ttl_s is None else duration(ttl_s),
        )
        answer = await self._call(lambda stub: stub.IssueResumeToken, request)
        return answer.resume_token, moment(answer.expire_time)

    async def _call(self, method: Method[Q, A], request: Q, deadline_s: float | None = None) -> A:
        """Call until answered, refused for good, or out of time. `deadline_s`: of each attempt."""
        give_up_at = time.monotonic() + self._retry_for_s
        backoff = RetryBackoff()
        while True:
            channel, address = self._channels.shared(), self._channels.shared_address
            try:
                return await self._attempt(channel, method, request, deadline_s or self._deadline_s)
            except CascadeClientError as error:
                if isinstance(error, Unavailable):
                    self._channels.replace(channel)
                wait_s = backoff.next_s(error.retry_after_s)
                if not may_repeat(error) or time.monotonic() + wait_s > give_up_at:
                    raise unreachable(error, address) from None
            await asyncio.sleep(wait_s)

    async def _attempt(
        self, channel: grpc.aio.Channel, method: Method[Q, A], request: Q, deadline_s: float
    ) -> A:
        stub: Any = SessionServiceStub(channel)
        try:
            return await method(stub)(request, timeout=deadline_s, metadata=self._channels.metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None


def updated(session: Session | str, message: session_pb2.Session) -> Session:
    """The newer message, with the token that the caller's session had."""
    return replace(session, message=message) if isinstance(session, Session) else Session(message)
